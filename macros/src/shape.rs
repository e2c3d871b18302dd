//! The code that describes shapes: for versions of events, and for `#[derive(Shape)]`.

use proc_macro2::{Spacing, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{
    Attribute, Data, DeriveInput, Error, Fields, GenericArgument, PathArguments, Result, Type,
};

use crate::attributes::OfType;
use crate::model::{Events, Kind, pointed_to};
use crate::serde;

/// Types of the standard library that say all there is to say by their name.
const STANDARD: [&str; 40] = [
    "bool",
    "char",
    "str",
    "String",
    "u8",
    "u16",
    "u32",
    "u64",
    "u128",
    "usize",
    "i8",
    "i16",
    "i32",
    "i64",
    "i128",
    "isize",
    "f32",
    "f64",
    "Option",
    "Result",
    "Vec",
    "VecDeque",
    "HashMap",
    "HashSet",
    "BTreeMap",
    "BTreeSet",
    "Box",
    "Rc",
    "Arc",
    "Cow",
    "PhantomData",
    "Duration",
    "SystemTime",
    "NonZero",
    "NonZeroU8",
    "NonZeroU16",
    "NonZeroU32",
    "NonZeroU64",
    "Range",
    "RangeInclusive",
];

/// Describes all versions of all kinds.
pub(crate) fn of_events(events: &Events<'_>) -> TokenStream {
    let root = &events.root;
    let is_enum = events.kinds.iter().any(|kind| kind.variant.is_some());
    let all = events.kinds.iter().flat_map(|kind| {
        let Kind { name, version, .. } = kind;
        let told =
            if is_enum { of_variant(events.attributes, kind) } else { of_type(kind.attributes) };
        let body = if is_enum {
            body(root, kind.fields)
        } else {
            whole(root, kind.attributes, kind.fields)
        };
        let current = one(root, name, *version, &told, &body);
        let older = kind.older.iter().map(move |(version, shape)| {
            let used = type_use(root, shape);
            one(root, name, *version, "", &quote!(#root::shape::Body::As(#used)))
        });
        older.chain([current])
    });
    quote!(#(#all),*)
}

fn one(
    root: &TokenStream,
    name: &str,
    version: u16,
    told: &str,
    body: &TokenStream,
) -> TokenStream {
    quote! {
        #root::shape::VersionShape {
            kind: #name,
            version: #root::SchemaVersion::new(#version),
            serde: #told,
            body: #body,
        }
    }
}

/// What serde is told of a type that concerns what is stored.
fn of_type(attributes: &[Attribute]) -> String {
    let described = ["rename", "deny_unknown_fields", "into", "try_from", "from", "transparent"];
    serde::text(attributes, &described)
}

/// What serde is told of a variant's contents: by itself, or by the enum for all of them.
fn of_variant(of_enum: &[Attribute], kind: &Kind<'_>) -> String {
    let own = serde::text(kind.attributes, &["rename", "alias"]);
    if own.contains("rename_all") || !matches!(kind.fields, Fields::Named(_)) {
        return own;
    }
    let all = serde::told(of_enum).into_iter().find(|told| told.name == "rename_all_fields");
    let all =
        all.map(|told| told.tokens.to_string().replacen("rename_all_fields", "rename_all", 1));
    [Some(own).filter(|own| !own.is_empty()), all]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

/// Implements `Shape`.
pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    if !input.generics.params.is_empty() {
        let message =
            "a stored shape is one for ever, so its type has no parameters; write the type out";
        return Err(Error::new_spanned(&input.generics, message));
    }
    let root = OfType::read(&input.attrs)?.root;
    let root = root.map_or_else(|| quote!(::headwater), |root| quote!(#root));
    let body = match &input.data {
        Data::Struct(data) => whole(&root, &input.attrs, &data.fields),
        Data::Enum(_) if serde::stored_as(&input.attrs).is_some() => {
            whole(&root, &input.attrs, &Fields::Unit)
        }
        Data::Enum(data) => {
            let variants = data.variants.iter().map(|variant| {
                let name =
                    serde::renamed(&variant.attrs).unwrap_or_else(|| variant.ident.to_string());
                let told = serde::text(&variant.attrs, &["rename"]);
                let body = body(&root, &variant.fields);
                quote!(#root::shape::Variant { name: #name, serde: #told, body: #body })
            });
            quote!(#root::shape::Body::Enum(&[#(#variants),*]))
        }
        Data::Union(data) => {
            return Err(Error::new(
                data.union_token.span,
                "a shape is that of an enum or a struct",
            ));
        }
    };
    let (ident, told) = (&input.ident, of_type(&input.attrs));
    Ok(quote! {
        const _: () = {
            use #root::shape::Opaque as _;

            #[automatically_derived]
            impl #root::shape::Shape for #ident {
                const SHAPE: #root::shape::TypeShape =
                    #root::shape::TypeShape { serde: #told, body: #body };
            }
        };
    })
}

/// Describes a struct, or the type that is stored instead.
fn whole(root: &TokenStream, attributes: &[Attribute], fields: &Fields) -> TokenStream {
    let only = fields.iter().next().filter(|_| serde::is_told(attributes, "transparent"));
    let other = serde::stored_as(attributes).or_else(|| only.map(|field| field.ty.clone()));
    let Some(other) = other else { return body(root, fields) };
    let of = type_use(root, &other);
    quote!(#root::shape::Body::As(#of))
}

/// Describes the fields of a struct or a variant.
fn body(root: &TokenStream, fields: &Fields) -> TokenStream {
    let described = |fields: &Fields| -> Vec<TokenStream> {
        let one = |(at, field): (usize, &syn::Field)| {
            let own = || {
                field.ident.as_ref().map_or_else(
                    || at.to_string(),
                    |ident| ident.to_string().trim_start_matches("r#").to_owned(),
                )
            };
            let name = serde::renamed(&field.attrs).unwrap_or_else(own);
            let told = serde::text(&field.attrs, &["rename"]);
            let of = type_use(root, &field.ty);
            quote!(#root::shape::Field { name: #name, of: #of, serde: #told })
        };
        let is_stored = |field: &syn::Field| !serde::is_told(&field.attrs, "skip");
        fields.iter().filter(|field| is_stored(field)).enumerate().map(one).collect()
    };
    match fields {
        Fields::Unit => quote!(#root::shape::Body::Unit),
        Fields::Unnamed(unnamed) if unnamed.unnamed.len() == 1 => {
            let of = type_use(root, &unnamed.unnamed[0].ty);
            quote!(#root::shape::Body::As(#of))
        }
        Fields::Unnamed(_) => {
            let fields = described(fields);
            quote!(#root::shape::Body::Tuple(&[#(#fields),*]))
        }
        Fields::Named(_) => {
            let fields = described(fields);
            quote!(#root::shape::Body::Struct(&[#(#fields),*]))
        }
    }
}

/// Describes a type where it is used.
fn type_use(root: &TokenStream, used: &Type) -> TokenStream {
    let used = pointed_to(used);
    let mut parts = Vec::new();
    collect(used, &mut parts);
    let name = text(used);
    let parts = parts.iter().map(|part| {
        let name = text(part);
        quote! {
            #root::shape::Part { name: #name, shape: || #root::shape::Probe::<#part>::SHAPE }
        }
    });
    quote!(#root::shape::TypeUse { name: #name, parts: &[#(#parts),*] })
}

/// Collects the types within a type that are not of the standard library.
fn collect<'a>(used: &'a Type, parts: &mut Vec<&'a Type>) {
    match used {
        Type::Path(path) => {
            let Some(last) = path.path.segments.last() else { return };
            if !STANDARD.iter().any(|name| last.ident == name) {
                parts.push(used);
            }
            if let PathArguments::AngleBracketed(arguments) = &last.arguments {
                for argument in &arguments.args {
                    if let GenericArgument::Type(inner) = argument {
                        collect(inner, parts);
                    }
                }
            }
        }
        Type::Array(array) => collect(&array.elem, parts),
        Type::Slice(slice) => collect(&slice.elem, parts),
        Type::Paren(paren) => collect(&paren.elem, parts),
        Type::Group(group) => collect(&group.elem, parts),
        Type::Tuple(tuple) => tuple.elems.iter().for_each(|elem| collect(elem, parts)),
        _ => {}
    }
}

/// Writes a type as people do: no spaces but behind commas and semicolons and between words.
fn text(used: &Type) -> String {
    fn write(tokens: TokenStream, out: &mut String) {
        for token in tokens {
            let is_word = matches!(token, TokenTree::Ident(_) | TokenTree::Literal(_));
            if is_word && out.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                out.push(' ');
            }
            match token {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                        proc_macro2::Delimiter::Bracket => ("[", "]"),
                        proc_macro2::Delimiter::Brace => ("{", "}"),
                        proc_macro2::Delimiter::None => ("", ""),
                    };
                    out.push_str(open);
                    write(group.stream(), out);
                    out.push_str(close);
                }
                TokenTree::Punct(punct) => {
                    out.push(punct.as_char());
                    if matches!(punct.as_char(), ',' | ';') && punct.spacing() == Spacing::Alone {
                        out.push(' ');
                    }
                }
                token => out.push_str(&token.to_string()),
            }
        }
    }
    let mut out = String::new();
    write(used.to_token_stream(), &mut out);
    out.trim_end().to_owned()
}
