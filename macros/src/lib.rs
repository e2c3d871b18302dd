//! Derive macros of Headwater. Use them through the crate `headwater`, whose guide to events
//! (`docs/events.md`) has examples of everything.
//!
//! `attributes.rs` reads what is said, `model.rs` checks it, `expand.rs` and `shape.rs` write the code.

mod attributes;
mod expand;
mod model;
mod name;
mod serde;
mod shape;
mod template;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `Event` for an enum, each variant a kind of event, or for a struct, which is one kind.
///
/// The type derives serde's `Serialize` and `Deserialize` as well. What is stored is what the variant
/// holds; its Rust name and its place among the variants are nowhere in the log and may change.
///
/// # Attributes
///
/// On a variant, or on a struct:
///
/// - `#[event(name = "order.placed")]`: the frozen name. Required.
/// - `version = 2`: the schema version that is written, from 1; 1 without it.
/// - `from(1 = OrderPlacedV1)`: the shape of each older version. `From` or `TryFrom` make the next
///   version of each, and the newest of the last: the type inside of a variant with one field without
///   a name, otherwise the enum, or the struct.
/// - `oldest = 2`: no log has versions before this one.
/// - `formerly = "order_placed"` or `formerly("a", "b")`: the names of older events.
/// - `tags("order:{order}", "month:{day.month()}")`: tags made of fields; `{0}` is the first field
///   without a name, and behind a field may stand what is to be asked of it.
/// - `key = "{customer}"`: what consumer groups order the event by.
///
/// On a field:
///
/// - `#[event(tag = "order:{}")]`, or `#[event(tag)]` for the value alone: a tag. An `Option`, a `Vec`
///   and a `BTreeSet` make one for each value they hold.
/// - `#[event(key)]` or `#[event(key = "order:{}")]`: the key.
///
/// On the enum or struct:
///
/// - `#[event(codec = Bincode)]`: how payloads are encoded; JSON without it.
/// - `#[event(crate = headwater_core)]`: where the traits are, if not in `::headwater`.
///
/// # What it adds
///
/// For each variant a constant in capitals, such as `Self::PLACED`, with its `EventKind`; for a struct
/// `Self::KIND`.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    model::Events::of(&input)
        .map_or_else(syn::Error::into_compile_error, |events| expand::events(&events))
        .into()
}

/// Implements `Shape`: how a type inside of an event is stored, so that `schema.lock` sees into it.
///
/// The type is a struct or an enum without parameters, and serde derives its encoding.
/// `#[event(crate = headwater_core)]` says where the trait is, if not in `::headwater`.
#[proc_macro_derive(Shape, attributes(event))]
pub fn derive_shape(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    shape::derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
