//! What stored shapes look like, as far as the source of a program says.
//!
//! `#[derive(Event)]` describes each version of each kind, `#[derive(Shape)]` the types within. A
//! description is for people and for tests that notice a changed shape: nothing is decoded by it. It
//! knows the fields of a type, their stored names, their types as they are written and their serde
//! attributes. It does not see through what serde is told to do by functions (`with = "..."`), nor into
//! types that do not derive [`Shape`]: of these it has the name alone.

use std::marker::PhantomData;

use xxhash_rust::xxh3::Xxh3;

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

impl TypeShape {
    /// Returns a number that differs for types that are stored differently, as far as shapes say. It
    /// stays the same from one program to the next.
    ///
    /// # Complexity
    ///
    /// Linear in the size of the description.
    pub fn fingerprint(&self) -> u64 {
        let mut digest = Digest { sum: Xxh3::new(), within: Vec::new() };
        digest.whole(self);
        digest.sum.digest()
    }
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

/// A fingerprint in the making. Each text stands behind its length and each list behind its count, so
/// that no two descriptions give the same bytes.
struct Digest {
    sum: Xxh3,
    /// The types that are being described, the outermost first.
    within: Vec<&'static str>,
}

impl Digest {
    fn number(&mut self, number: usize) {
        self.sum.update(&(number as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.sum.update(text.as_bytes());
    }

    fn whole(&mut self, shape: &TypeShape) {
        self.text(shape.serde);
        self.body(&shape.body);
    }

    fn body(&mut self, body: &Body) {
        match body {
            Body::Unit => self.number(0),
            Body::As(of) => {
                self.number(1);
                self.used(of);
            }
            Body::Tuple(fields) => {
                self.number(2);
                self.fields(fields);
            }
            Body::Struct(fields) => {
                self.number(3);
                self.fields(fields);
            }
            Body::Enum(variants) => {
                self.number(4);
                self.number(variants.len());
                for variant in *variants {
                    self.text(variant.name);
                    self.text(variant.serde);
                    self.body(&variant.body);
                }
            }
        }
    }

    fn fields(&mut self, fields: &[Field]) {
        self.number(fields.len());
        for field in fields {
            self.text(field.name);
            self.text(field.serde);
            self.used(&field.of);
        }
    }

    fn used(&mut self, of: &TypeUse) {
        self.text(of.name);
        self.number(of.parts.len());
        for part in of.parts {
            self.text(part.name);
            match (part.shape)() {
                // It has been described where it stands around this.
                Some(_) if self.within.contains(&part.name) => self.number(1),
                Some(shape) => {
                    self.number(2);
                    self.within.push(part.name);
                    self.whole(&shape);
                    self.within.pop();
                }
                None => self.number(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn of(name: &'static str) -> TypeUse {
        TypeUse { name, parts: &[] }
    }

    const fn field(name: &'static str, of: TypeUse) -> Field {
        Field { name, of, serde: "" }
    }

    const fn shape(body: Body) -> TypeShape {
        TypeShape { serde: "", body }
    }

    const A: Field = field("a", of("u32"));
    const B: Field = field("b", of("u32"));

    /// A list within itself.
    const TREE: TypeShape = shape(Body::Struct(&[A, field("next", MAYBE_TREE)]));
    const MAYBE_TREE: TypeUse = TypeUse {
        name: "Option<Box<Tree>>",
        parts: &[Part { name: "Tree", shape: || Some(TREE) }],
    };

    #[test]
    fn whatever_differs_in_a_description_shows_in_its_fingerprint() {
        const INNER: &[Part] = &[Part { name: "Money", shape: || Some(shape(Body::Struct(&[A]))) }];
        const OTHER: &[Part] = &[Part { name: "Money", shape: || Some(shape(Body::Struct(&[B]))) }];
        const OPAQUE: &[Part] = &[Part { name: "Money", shape: || None }];
        const fn variant(name: &'static str, body: Body) -> Variant {
            Variant { name, serde: "", body }
        }
        const SHAPES: &[TypeShape] = &[
            shape(Body::Unit),
            shape(Body::Struct(&[])),
            shape(Body::Tuple(&[])),
            shape(Body::Struct(&[A, B])),
            shape(Body::Struct(&[B, A])),
            shape(Body::Struct(&[A])),
            shape(Body::Tuple(&[A])),
            shape(Body::Struct(&[field("a", of("u64"))])),
            shape(Body::Struct(&[Field { serde: "default", ..A }])),
            TypeShape { serde: "transparent", body: Body::Struct(&[A]) },
            shape(Body::As(of("Money"))),
            shape(Body::As(TypeUse { name: "Money", parts: INNER })),
            shape(Body::As(TypeUse { name: "Money", parts: OTHER })),
            shape(Body::As(TypeUse { name: "Money", parts: OPAQUE })),
            shape(Body::Enum(&[variant("X", Body::Unit), variant("Y", Body::Unit)])),
            shape(Body::Enum(&[variant("Y", Body::Unit), variant("X", Body::Unit)])),
            shape(Body::Enum(&[variant("X", Body::Struct(&[A])), variant("Y", Body::Unit)])),
            shape(Body::Enum(&[variant("X", Body::Unit), variant("Y", Body::Struct(&[A]))])),
            TREE,
        ];
        let mut all: Vec<u64> = SHAPES.iter().map(TypeShape::fingerprint).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), SHAPES.len());
    }

    #[test]
    fn fingerprints_are_frozen() {
        assert_eq!(TREE.fingerprint(), 14_657_098_013_089_399_780);
        assert_eq!(shape(Body::Unit).fingerprint(), 15_034_821_391_391_295_848);
    }
}
