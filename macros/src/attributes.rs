//! What `#[event(...)]` says, as it is written.

use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, LitInt, LitStr, Path, Result, Token, Type, parenthesized};

/// Said of the whole type.
#[derive(Default)]
pub(crate) struct OfType {
    pub(crate) codec: Option<Path>,
    pub(crate) root: Option<Path>,
}

/// Said of a kind of event.
#[derive(Default)]
pub(crate) struct OfKind {
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<LitInt>,
    pub(crate) oldest: Option<LitInt>,
    pub(crate) formerly: Vec<LitStr>,
    pub(crate) from: Vec<Old>,
    pub(crate) tags: Vec<LitStr>,
    pub(crate) key: Option<LitStr>,
}

/// The shape of an older version.
pub(crate) struct Old {
    pub(crate) version: LitInt,
    pub(crate) shape: Type,
}

/// A text, or the value alone.
pub(crate) struct OfValue {
    pub(crate) span: Span,
    pub(crate) text: Option<LitStr>,
}

/// Said of a field.
#[derive(Default)]
pub(crate) struct OfField {
    pub(crate) tags: Vec<OfValue>,
    pub(crate) key: Option<OfValue>,
}

/// What each place knows, for whoever writes something else.
const TYPE: &str = "of the type: codec = Bincode, crate = headwater_core";
const KIND: &str = "of a kind of event: name = \"...\", version = 2, from(1 = OldShape), oldest = 1, formerly = \"...\", tags(\"order:{id}\"), key = \"{id}\"";
const FIELD: &str = "of a field: tag = \"order:{}\", tag, key = \"order:{}\", key";

impl OfType {
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut said = Self::default();
        each(attributes, |meta| said.take(meta)?.or_unknown(meta, TYPE))?;
        Ok(said)
    }

    /// Reads what is said of the type and of its one kind.
    pub(crate) fn read_with_kind(attributes: &[Attribute]) -> Result<(Self, OfKind)> {
        let (mut said, mut kind) = (Self::default(), OfKind::default());
        each(attributes, |meta| match said.take(meta)? {
            Taken::Yes => Ok(()),
            Taken::No => kind.take(meta)?.or_unknown(meta, &format!("{KIND}; {TYPE}")),
        })?;
        Ok((said, kind))
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<Taken> {
        if meta.path.is_ident("codec") {
            set(&mut self.codec, meta, |meta| meta.value()?.parse())
        } else if meta.path.is_ident("crate") {
            set(&mut self.root, meta, |meta| meta.value()?.call(Path::parse_mod_style))
        } else {
            Ok(Taken::No)
        }
    }
}

impl OfKind {
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut said = Self::default();
        each(attributes, |meta| said.take(meta)?.or_unknown(meta, KIND))?;
        Ok(said)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<Taken> {
        let Some(name) = meta.path.get_ident() else { return Ok(Taken::No) };
        match name.to_string().as_str() {
            "name" => set(&mut self.name, meta, |meta| meta.value()?.parse()),
            "version" => set(&mut self.version, meta, |meta| meta.value()?.parse()),
            "oldest" => set(&mut self.oldest, meta, |meta| meta.value()?.parse()),
            "key" => set(&mut self.key, meta, |meta| meta.value()?.parse()),
            "formerly" => {
                if meta.input.peek(Token![=]) {
                    self.formerly.push(meta.value()?.parse()?);
                } else {
                    self.formerly.extend(listed::<LitStr>(meta)?);
                }
                Ok(Taken::Yes)
            }
            "tags" => {
                self.tags.extend(listed::<LitStr>(meta)?);
                Ok(Taken::Yes)
            }
            "from" => {
                self.from.extend(listed::<Old>(meta)?);
                Ok(Taken::Yes)
            }
            _ => Ok(Taken::No),
        }
    }
}

impl Parse for Old {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let expected = "write the version and its shape, as in from(1 = OrderPlacedV1)";
        let version = input.parse().map_err(|error| Error::new(error.span(), expected))?;
        input.parse::<Token![=]>().map_err(|error| Error::new(error.span(), expected))?;
        Ok(Self { version, shape: input.parse()? })
    }
}

impl OfField {
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut said = Self::default();
        each(attributes, |meta| said.take(meta)?.or_unknown(meta, FIELD))?;
        Ok(said)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<Taken> {
        if meta.path.is_ident("tag") {
            self.tags.push(OfValue::read(meta)?);
            Ok(Taken::Yes)
        } else if meta.path.is_ident("key") {
            set(&mut self.key, meta, OfValue::read)
        } else {
            Ok(Taken::No)
        }
    }
}

impl OfValue {
    fn read(meta: &ParseNestedMeta<'_>) -> Result<Self> {
        let has_text = meta.input.peek(Token![=]);
        let text = if has_text { Some(meta.value()?.parse()?) } else { None };
        Ok(Self { span: meta.path.segments[0].ident.span(), text })
    }
}

enum Taken {
    Yes,
    No,
}

impl Taken {
    fn or_unknown(self, meta: &ParseNestedMeta<'_>, known: &str) -> Result<()> {
        match self {
            Self::Yes => Ok(()),
            Self::No => {
                Err(meta.error(format!("this cannot be said here; it can be said {known}")))
            }
        }
    }
}

fn each(
    attributes: &[Attribute],
    mut take: impl FnMut(&ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    let ours = attributes.iter().filter(|attribute| attribute.path().is_ident("event"));
    for attribute in ours {
        attribute.parse_nested_meta(|meta| take(&meta))?;
    }
    Ok(())
}

fn set<T>(
    place: &mut Option<T>,
    meta: &ParseNestedMeta<'_>,
    read: impl FnOnce(&ParseNestedMeta<'_>) -> Result<T>,
) -> Result<Taken> {
    if place.is_some() {
        return Err(meta.error("this is said twice; leave one"));
    }
    *place = Some(read(meta)?);
    Ok(Taken::Yes)
}

fn listed<T: Parse>(meta: &ParseNestedMeta<'_>) -> Result<Vec<T>> {
    let content;
    parenthesized!(content in meta.input);
    let list = Punctuated::<T, Token![,]>::parse_terminated(&content)?;
    Ok(list.into_iter().collect())
}
