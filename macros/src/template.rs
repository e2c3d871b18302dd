//! Texts with fields in them: `"order:{order}"`, `"month:{day.month()}"`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{Error, Fields, Ident, LitStr, Result};

use crate::model::bound;

/// A text and the expressions that go into it.
#[derive(Default)]
pub(crate) struct Template {
    /// A format string with a `{}` for each value.
    format: String,
    values: Vec<TokenStream>,
    /// The fields that are looked at.
    pub(crate) fields: Vec<Ident>,
}

/// A piece of a template.
enum Piece {
    Text(String),
    Value(String),
}

fn pieces(text: &LitStr) -> Result<Vec<Piece>> {
    let whole = text.value();
    let (mut pieces, mut rest) = (Vec::new(), whole.as_str());
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        pieces.push(Piece::Text(before.to_owned()));
        if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
            pieces.push(Piece::Text(from[..2].to_owned()));
            rest = after;
            continue;
        }
        let Some((value, after)) = from.strip_prefix('{').and_then(|from| from.split_once('}'))
        else {
            let message = "a brace stands alone; write {{ or }} for one that is text";
            return Err(Error::new(text.span(), message));
        };
        pieces.push(Piece::Value(value.trim().to_owned()));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

impl Template {
    /// Reads a text whose values name fields.
    pub(crate) fn of_fields(text: &LitStr, fields: &Fields) -> Result<Self> {
        let mut template = Self::default();
        for piece in pieces(text)? {
            match piece {
                Piece::Text(piece) => template.format.push_str(&piece),
                Piece::Value(value) => template.push(text, &value, fields)?,
            }
        }
        Ok(template)
    }

    fn push(&mut self, text: &LitStr, value: &str, fields: &Fields) -> Result<()> {
        let end = value.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(value.len());
        let (name, rest) = value.split_at(end);
        let found = fields.members().find(|member| match member {
            syn::Member::Named(ident) => ident.unraw() == name,
            syn::Member::Unnamed(index) => index.index.to_string() == name,
        });
        let Some(member) = found else {
            let known: Vec<_> = fields.members().map(|member| named(&member)).collect();
            let known = match known.as_slice() {
                [] => "there are no fields here".to_owned(),
                known => format!("the fields here are {}", known.join(", ")),
            };
            let message = format!("`{{{value}}}` names no field; {known}");
            return Err(Error::new(text.span(), message));
        };
        let wrong = || {
            let message = format!(
                "`{{{value}}}` is no field with an expression behind it, such as {{day.month()}}"
            );
            Error::new(text.span(), message)
        };
        if !(rest.is_empty() || rest.starts_with(['.', '['])) {
            return Err(wrong());
        }
        let field = bound(&member, text.span());
        let rest: TokenStream = rest.parse().map_err(|_| wrong())?;
        // Names in the expression belong to where the text stands.
        let rest = respanned(rest, text.span());
        self.format.push_str("{}");
        self.values.push(quote!(#field #rest));
        self.fields.push(field);
        Ok(())
    }

    /// Reads a text with one `{}`, for the value of a field. No text is the value alone.
    pub(crate) fn of_value(text: Option<&LitStr>) -> Result<Self> {
        let Some(text) = text else {
            return Ok(Self { format: "{}".to_owned(), ..Self::default() });
        };
        let (mut template, mut values) = (Self::default(), 0);
        for piece in pieces(text)? {
            match piece {
                Piece::Text(piece) => template.format.push_str(&piece),
                Piece::Value(value) if value.is_empty() => {
                    values += 1;
                    template.format.push_str("{}");
                }
                Piece::Value(_) => values += 2,
            }
        }
        if values != 1 {
            let message = "write {} once, where the value of this field goes, as in \"order:{}\"; for several fields write tags(\"{a}:{b}\") on the variant";
            return Err(Error::new(text.span(), message));
        }
        Ok(template)
    }

    /// Writes the text with its own values.
    pub(crate) fn text(&self) -> TokenStream {
        let (format, values) = (&self.format, &self.values);
        quote!(::std::format!(#format #(, #values)*))
    }

    /// Writes the text with one value from elsewhere.
    pub(crate) fn text_with(&self, value: &TokenStream) -> TokenStream {
        let format = &self.format;
        quote!(::std::format!(#format, #value))
    }
}

fn named(member: &syn::Member) -> String {
    match member {
        syn::Member::Named(ident) => ident.to_string(),
        syn::Member::Unnamed(index) => index.index.to_string(),
    }
}

/// The same tokens, as if they stood at `span`.
pub(crate) fn respanned(tokens: TokenStream, span: proc_macro2::Span) -> TokenStream {
    use proc_macro2::{Group, TokenTree};
    let one = |token: TokenTree| {
        let mut token = match token {
            TokenTree::Group(group) => {
                Group::new(group.delimiter(), respanned(group.stream(), span)).into()
            }
            token => token,
        };
        token.set_span(span);
        token
    };
    tokens.into_iter().map(one).collect()
}
