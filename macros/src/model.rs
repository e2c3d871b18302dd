//! What a type that derives `Event` is, checked.

use std::collections::HashMap;

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    Attribute, Data, DeriveInput, Error, Field, Fields, GenericArgument, Ident, LitInt, LitStr,
    Member, PathArguments, Result, Type, Visibility,
};

use crate::attributes::{OfField, OfKind, OfType, Old};
use crate::template::Template;
use crate::{name, serde};

/// A type of events.
pub(crate) struct Events<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) visibility: &'a Visibility,
    pub(crate) attributes: &'a [Attribute],
    /// Where the traits are.
    pub(crate) root: TokenStream,
    pub(crate) codec: TokenStream,
    pub(crate) kinds: Vec<Kind<'a>>,
}

/// A kind of event.
pub(crate) struct Kind<'a> {
    /// The variant; a struct has none.
    pub(crate) variant: Option<&'a Ident>,
    pub(crate) attributes: &'a [Attribute],
    pub(crate) fields: &'a Fields,
    pub(crate) name: String,
    pub(crate) formerly: Vec<String>,
    pub(crate) version: u16,
    /// The older versions that are read, without a gap up to the current one.
    pub(crate) older: Vec<(u16, Type)>,
    pub(crate) tags: Vec<Label>,
    pub(crate) key: Option<Label>,
}

/// A text made of fields.
pub(crate) enum Label {
    /// Of any fields.
    Whole(Template),
    /// Of each value that one field holds.
    Field { field: Ident, holds_several: bool, template: Template },
}

impl Label {
    /// The fields that must be bound.
    pub(crate) fn fields(&self) -> &[Ident] {
        match self {
            Self::Whole(template) => &template.fields,
            Self::Field { field, .. } => std::slice::from_ref(field),
        }
    }
}

/// Returns what a field is bound as in a pattern.
pub(crate) fn bound(member: &Member, span: Span) -> Ident {
    match member {
        Member::Named(ident) => ident.clone(),
        Member::Unnamed(index) => format_ident!("field_{}", index.index, span = span),
    }
}

impl<'a> Events<'a> {
    pub(crate) fn of(input: &'a DeriveInput) -> Result<Self> {
        if !input.generics.params.is_empty() {
            let message = "events are stored in one shape for ever, so their type has no parameters; write the type out";
            return Err(Error::new_spanned(&input.generics, message));
        }
        let (said, kinds) = match &input.data {
            Data::Struct(data) => {
                let (said, kind) = OfType::read_with_kind(&input.attrs)?;
                (said, vec![Kind::of_struct(input, &data.fields, &kind)?])
            }
            Data::Enum(data) => {
                let adapted = ["tag", "content", "untagged", "from", "try_from", "into", "remote"];
                let why = "what is stored is what the variant holds, and the event's name says which variant it is; remove it";
                serde::refuse(&input.attrs, &adapted, why)?;
                (OfType::read(&input.attrs)?, collect(data.variants.iter().map(Kind::of_variant))?)
            }
            Data::Union(data) => {
                return Err(Error::new(data.union_token.span, "an event is an enum or a struct"));
            }
        };
        if kinds.is_empty() {
            return Err(Error::new_spanned(&input.ident, "an event needs at least one variant"));
        }
        let root = said.root.map_or_else(|| quote!(::headwater), |root| quote!(#root));
        let codec = said.codec.map_or_else(|| quote!(#root::Json), |codec| quote!(#codec));
        let (ident, visibility, attributes) = (&input.ident, &input.vis, &*input.attrs);
        let events = Self { ident, visibility, attributes, root, codec, kinds };
        events.check_names()?;
        Ok(events)
    }

    /// Refuses two kinds with one name.
    fn check_names(&self) -> Result<()> {
        let mut seen = HashMap::new();
        for kind in &self.kinds {
            let at = kind.variant.unwrap_or(self.ident);
            for name in std::iter::once(&kind.name).chain(&kind.formerly) {
                if let Some(other) = seen.insert(name, at) {
                    let message = if other == at {
                        format!("the name {name:?} is given twice; leave one")
                    } else {
                        format!(
                            "the name {name:?} is that of `{other}` too; an event's name says which variant it is, so give each its own"
                        )
                    };
                    return Err(Error::new_spanned(at, message));
                }
            }
        }
        Ok(())
    }
}

/// Collects all values, or all errors.
fn collect<T>(results: impl Iterator<Item = Result<T>>) -> Result<Vec<T>> {
    let (mut values, mut errors) = (Vec::new(), None::<Error>);
    for result in results {
        match (result, &mut errors) {
            (Ok(value), _) => values.push(value),
            (Err(error), Some(errors)) => errors.combine(error),
            (Err(error), None) => errors = Some(error),
        }
    }
    errors.map_or(Ok(values), Err)
}

impl<'a> Kind<'a> {
    fn of_variant(variant: &'a syn::Variant) -> Result<Self> {
        let left_out = ["skip", "skip_serializing", "skip_deserializing", "other", "untagged"];
        let why = "every variant is stored under its own name; remove it, or the variant";
        serde::refuse(&variant.attrs, &left_out, why)?;
        let said = OfKind::read(&variant.attrs)?;
        let at = &variant.ident;
        Self::of(Some(at), at, &variant.attrs, &variant.fields, &said)
    }

    fn of_struct(input: &'a DeriveInput, fields: &'a Fields, said: &OfKind) -> Result<Self> {
        if matches!(fields, Fields::Unit) {
            let message = "an event without fields is written with braces, so that it can get some later: `struct Name {}`";
            return Err(Error::new_spanned(&input.ident, message));
        }
        Self::of(None, &input.ident, &input.attrs, fields, said)
    }

    fn of(
        variant: Option<&'a Ident>,
        at: &Ident,
        attributes: &'a [Attribute],
        fields: &'a Fields,
        said: &OfKind,
    ) -> Result<Self> {
        let Some(name) = &said.name else {
            let message = format!(
                "`{at}` needs the name that its events have in the log: #[event(name = \"...\")]; it is never taken from the Rust name, so that renaming is free"
            );
            return Err(Error::new_spanned(at, message));
        };
        for name in std::iter::once(name).chain(&said.formerly) {
            if let Some(fault) = name::fault(&name.value()) {
                return Err(Error::new(name.span(), fault));
            }
        }
        let (version, older) = versions(at, said)?;
        let (tags, key) = labels(fields, said)?;
        let formerly = said.formerly.iter().map(LitStr::value).collect();
        Ok(Self {
            variant,
            attributes,
            fields,
            name: name.value(),
            formerly,
            version,
            older,
            tags,
            key,
        })
    }
}

/// Reads a version, which counts from 1.
fn number(literal: &LitInt) -> Result<u16> {
    match literal.base10_parse::<u16>() {
        Ok(0) | Err(_) => {
            Err(Error::new(literal.span(), "schema versions are numbers from 1 to 65535"))
        }
        Ok(number) => Ok(number),
    }
}

/// Checks that every version from the oldest to the current one has a shape.
fn versions(at: &Ident, said: &OfKind) -> Result<(u16, Vec<(u16, Type)>)> {
    let version = said.version.as_ref().map_or(Ok(1), number)?;
    let oldest = said.oldest.as_ref().map_or(Ok(1), number)?;
    let span = said.version.as_ref().map_or_else(|| at.span(), LitInt::span);
    if let Some(too_new) = said.oldest.as_ref().filter(|_| oldest > version) {
        let message = format!(
            "the oldest version that is read cannot be newer than version {version}, which is written"
        );
        return Err(Error::new(too_new.span(), message));
    }
    let mut older: Vec<(u16, &Old)> = Vec::new();
    for old in &said.from {
        let number = number(&old.version)?;
        if number >= version {
            let message = format!(
                "version {number} is not older than version {version}, which is written; raise it: version = {}",
                number.saturating_add(1)
            );
            return Err(Error::new(old.version.span(), message));
        }
        if number < oldest {
            let message = format!(
                "oldest = {oldest} says that no log has version {number}; remove one of them"
            );
            return Err(Error::new(old.version.span(), message));
        }
        if older.iter().any(|&(other, _)| other == number) {
            let message = format!("version {number} has two shapes; leave the one that was stored");
            return Err(Error::new(old.version.span(), message));
        }
        older.push((number, old));
    }
    older.sort_by_key(|&(number, _)| number);
    if let Some(hole) = (oldest..version).find(|number| !older.iter().any(|(n, _)| n == number)) {
        let message = format!(
            "events of `{at}` with version {hole} could not be read: give their shape, from({hole} = TheOldStruct), or say that no log has them: oldest = {}",
            hole + 1
        );
        return Err(Error::new(span, message));
    }
    Ok((version, older.into_iter().map(|(number, old)| (number, old.shape.clone())).collect()))
}

/// Reads tags and key, of the whole and of the fields.
fn labels(fields: &Fields, said: &OfKind) -> Result<(Vec<Label>, Option<Label>)> {
    let whole = |text| Template::of_fields(text, fields).map(Label::Whole);
    let mut tags = said.tags.iter().map(whole).collect::<Result<Vec<_>>>()?;
    let mut key = said.key.as_ref().map(whole).transpose()?;
    for (member, field) in fields.members().zip(fields) {
        let of_field = OfField::read(&field.attrs)?;
        let ident = bound(&member, Span::call_site());
        for tag in &of_field.tags {
            let template = Template::of_value(tag.text.as_ref())?;
            let holds_several = holds_several(field);
            tags.push(Label::Field { field: ident.clone(), holds_several, template });
        }
        if let Some(said) = &of_field.key {
            if key.is_some() {
                let message = "an event has one key; to order by several fields together write key = \"{a}:{b}\" on the variant";
                return Err(Error::new(said.span, message));
            }
            let template = Template::of_value(said.text.as_ref())?;
            key = Some(Label::Field { field: ident, holds_several: false, template });
        }
    }
    Ok((tags, key))
}

/// Returns whether a field is, by its name, a container of values that each make a tag.
fn holds_several(field: &Field) -> bool {
    let Type::Path(path) = &field.ty else { return false };
    let last = path.path.segments.last();
    last.is_some_and(|last| ["Option", "Vec", "BTreeSet"].iter().any(|name| last.ident == name))
}

/// Returns what a smart pointer holds that serde does not store; otherwise the type itself.
pub(crate) fn pointed_to(whole: &Type) -> &Type {
    let Type::Path(path) = whole else { return whole };
    let Some(last) = path.path.segments.last() else { return whole };
    let is_pointer = ["Box", "Rc", "Arc"].iter().any(|name| last.ident == name);
    match &last.arguments {
        PathArguments::AngleBracketed(arguments) if is_pointer => match arguments.args.first() {
            Some(GenericArgument::Type(inner)) => inner,
            _ => whole,
        },
        _ => whole,
    }
}
