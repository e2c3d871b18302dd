//! What stored shapes look like, as far as the source of a program says.
//!
//! `#[derive(Event)]` describes each version of each kind, `#[derive(Shape)]` the types within. A
//! description is for people and for tests that notice a changed shape: nothing is decoded by it. It
//! knows the fields of a type, their stored names, their types as they are written and their serde
//! attributes. It does not see through what serde is told to do by functions (`with = "..."`), nor into
//! types that do not derive [`Shape`]: of these it has the name alone.

use std::marker::PhantomData;

use crate::position::SchemaVersion;

#[cfg(feature = "derive")]
pub use headwater_macros::Shape;

/// A type that says how it is stored.
pub trait Shape {
    /// How it is stored.
    const SHAPE: TypeShape;
}

/// One version of one kind of event.
#[derive(Clone, Copy, Debug)]
pub struct VersionShape {
    /// The frozen name of the kind.
    pub kind: &'static str,
    /// Which version.
    pub version: SchemaVersion,
    /// What serde is told of all of it.
    pub serde: &'static str,
    /// What is stored.
    pub body: Body,
}

/// How a type is stored.
#[derive(Clone, Copy, Debug)]
pub struct TypeShape {
    /// What serde is told of all of it.
    pub serde: &'static str,
    /// What is stored.
    pub body: Body,
}

/// What is stored of a struct, a variant or an enum.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// Nothing.
    Unit,
    /// What another type is stored as.
    As(TypeUse),
    /// Fields without names.
    Tuple(&'static [Field]),
    /// Fields with names.
    Struct(&'static [Field]),
    /// One of these.
    Enum(&'static [Variant]),
}

/// A field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its stored name, before what serde is told of the whole type; its number where it has no name.
    pub name: &'static str,
    /// Its type.
    pub of: TypeUse,
    /// What serde is told of it.
    pub serde: &'static str,
}

/// A variant of an enum within an event.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Its stored name, before what serde is told of the whole type.
    pub name: &'static str,
    /// What serde is told of it.
    pub serde: &'static str,
    /// What is stored beside the name.
    pub body: Body,
}

/// A type as it is written where it is used.
#[derive(Clone, Copy, Debug)]
pub struct TypeUse {
    /// The text, such as `Option<Money>`.
    pub name: &'static str,
    /// The types in it that are not of the standard library, such as `Money`.
    pub parts: &'static [Part],
}

/// A type that another one is made of.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// How it is written.
    pub name: &'static str,
    /// Returns how it is stored, `None` where it does not say.
    pub shape: fn() -> Option<TypeShape>,
}

/// Asks a type for its [`Shape`], if it has one. For derived code: `Probe::<T>::SHAPE` with [`Opaque`]
/// in scope.
#[derive(Debug)]
pub struct Probe<T: ?Sized>(PhantomData<T>);

impl<T: Shape + ?Sized> Probe<T> {
    /// How the type is stored.
    pub const SHAPE: Option<TypeShape> = Some(T::SHAPE);
}

/// What a [`Probe`] says of a type without a [`Shape`].
pub trait Opaque {
    /// Nothing is known.
    const SHAPE: Option<TypeShape> = None;
}

impl<T: ?Sized> Opaque for Probe<T> {}
