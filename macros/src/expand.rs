//! The code of `#[derive(Event)]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Fields, Ident, Member, Type};

use crate::model::{Events, Kind, Label, bound, pointed_to};
use crate::shape;
use crate::template::respanned;

/// Implements the trait.
pub(crate) fn events(events: &Events<'_>) -> TokenStream {
    let Events { ident, root, codec, kinds, .. } = events;
    let constants: Vec<_> = kinds.iter().map(constant_name).collect();
    let inherent = constants_of(events, &constants);
    let kind = arms(kinds, |kind, _| {
        let constant = constant_name(kind);
        quote!(Self::#constant)
    });
    let (tags, key) = (tags(events), key(events));
    let encode = encode(events);
    let decode = decode(events);
    let shapes = shape::of_events(events);
    quote! {
        const _: () = {
            use #root::shape::Opaque as _;

            #inherent

            #[automatically_derived]
            impl #root::Event for #ident {
                type Codec = #codec;

                const KINDS: &'static [#root::EventKind] = &[#(Self::#constants),*];

                fn kind(&self) -> #root::EventKind {
                    #kind
                }

                #tags
                #key
                #encode
                #decode

                fn shapes() -> &'static [#root::shape::VersionShape] {
                    const { &[#shapes] }
                }
            }
        };
    }
}

/// The name of a kind's constant: the variant's in capitals.
fn constant_name(kind: &Kind<'_>) -> Ident {
    let Some(variant) = kind.variant else { return Ident::new("KIND", Span::call_site()) };
    let text = variant.to_string();
    let characters: Vec<char> = text.trim_start_matches("r#").chars().collect();
    let mut name = String::new();
    for (at, character) in characters.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| characters[before]);
        let ends_capitals = characters.get(at + 1).is_some_and(|next| next.is_lowercase());
        let begins_word = character.is_uppercase()
            && before
                .is_some_and(|before| before != '_' && (!before.is_uppercase() || ends_capitals));
        if begins_word {
            name.push('_');
        }
        name.extend(character.to_uppercase());
    }
    Ident::new(&name, variant.span())
}

fn constants_of(events: &Events<'_>, constants: &[Ident]) -> TokenStream {
    let Events { ident, visibility, root, kinds, .. } = events;
    let kinds = kinds.iter().zip(constants).map(|(kind, constant)| {
        let Kind { name, formerly, version, older, .. } = kind;
        let oldest = older.first().map_or(*version, |&(oldest, _)| oldest);
        let doc = format!("The kind of event called `{name}`.");
        quote! {
            #[doc = #doc]
            #visibility const #constant: #root::EventKind = #root::EventKind::new(#name, #version)
                .formerly(&[#(#formerly),*])
                .reading_from(#oldest);
        }
    });
    quote! {
        #[automatically_derived]
        #[allow(dead_code)]
        impl #ident {
            #(#kinds)*
        }
    }
}

/// A match over the kinds. `each` says what is done with one, and which fields it needs.
fn arms(
    kinds: &[Kind<'_>],
    each: impl Fn(&Kind<'_>, &mut Vec<Ident>) -> TokenStream,
) -> TokenStream {
    let arms = kinds.iter().map(|kind| {
        let mut needed = Vec::new();
        let code = each(kind, &mut needed);
        let pattern = pattern(kind, &needed);
        quote!(#pattern => { #code })
    });
    quote!(match self { #(#arms)* })
}

/// The pattern of a kind that binds the fields that are needed.
fn pattern(kind: &Kind<'_>, needed: &[Ident]) -> TokenStream {
    let path = kind.variant.map_or_else(|| quote!(Self), |variant| quote!(Self::#variant));
    let bindings = kind.fields.members().filter_map(|member| {
        let ident = needed.iter().find(|ident| **ident == bound(&member, Span::call_site()))?;
        Some(match member {
            Member::Named(_) => quote!(#ident),
            Member::Unnamed(index) => quote!(#index: #ident),
        })
    });
    quote!(#path { #(#bindings,)* .. })
}

fn tags(events: &Events<'_>) -> TokenStream {
    let Events { root, kinds, .. } = events;
    if kinds.iter().all(|kind| kind.tags.is_empty()) {
        return TokenStream::new();
    }
    let code = arms(kinds, |kind, needed| {
        if kind.tags.is_empty() {
            return quote!(::std::result::Result::Ok(::std::vec::Vec::new()));
        }
        needed.extend(kind.tags.iter().flat_map(Label::fields).cloned());
        let count = kind.tags.len();
        // No field has these names, whatever it is called.
        let [tags, value] = ["tags", "value"].map(|name| Ident::new(name, Span::mixed_site()));
        let pushes = kind.tags.iter().map(|tag| {
            let push = |text| quote!(#tags.push(#root::Tag::new(#text)?););
            match tag {
                Label::Whole(template) => push(template.text()),
                Label::Field { field, holds_several: false, template } => {
                    push(template.text_with(&quote!(#field)))
                }
                Label::Field { field, holds_several: true, template } => {
                    let push = push(template.text_with(&quote!(#value)));
                    quote!(for #value in #field.iter() { #push })
                }
            }
        });
        quote! {
            let mut #tags = ::std::vec::Vec::with_capacity(#count);
            #(#pushes)*
            ::std::result::Result::Ok(#tags)
        }
    });
    quote! {
        fn tags(
            &self,
        ) -> ::std::result::Result<::std::vec::Vec<#root::Tag>, #root::InvalidName> {
            #code
        }
    }
}

fn key(events: &Events<'_>) -> TokenStream {
    let Events { root, kinds, .. } = events;
    if kinds.iter().all(|kind| kind.key.is_none()) {
        return TokenStream::new();
    }
    let code = arms(kinds, |kind, needed| {
        let Some(key) = &kind.key else {
            return quote!(::std::result::Result::Ok(::std::option::Option::None));
        };
        needed.extend(key.fields().iter().cloned());
        let text = match key {
            Label::Whole(template) => template.text(),
            Label::Field { field, template, .. } => template.text_with(&quote!(#field)),
        };
        quote!(#root::Key::new(#text).map(::std::option::Option::Some))
    });
    quote! {
        fn key(
            &self,
        ) -> ::std::result::Result<::std::option::Option<#root::Key>, #root::InvalidName> {
            #code
        }
    }
}

/// A struct is encoded as it is, and a variant without its name.
fn encode(events: &Events<'_>) -> TokenStream {
    let Events { root, kinds, .. } = events;
    if kinds.iter().all(|kind| kind.variant.is_none()) {
        return TokenStream::new();
    }
    quote! {
        fn encode_payload(
            &self,
        ) -> ::std::result::Result<#root::Bytes, #root::CodecError> {
            #root::encode_variant(self)
        }
    }
}

fn decode(events: &Events<'_>) -> TokenStream {
    let Events { root, kinds, .. } = events;
    let is_struct = kinds.iter().all(|kind| kind.variant.is_none());
    if is_struct && kinds.iter().all(|kind| kind.older.is_empty()) {
        return TokenStream::new();
    }
    let old = kinds.iter().enumerate().flat_map(|(index, kind)| {
        (0..kind.older.len()).map(move |from| {
            let version = kind.older[from].0;
            let chain = chain(events, kind, from);
            quote!((#index, #version) => { #chain })
        })
    });
    let current = if is_struct {
        quote!(payload.decode::<<Self as #root::Event>::Codec, Self>())
    } else {
        quote!(payload.decode_variant::<Self>())
    };
    quote! {
        fn decode_payload(
            payload: #root::Payload<'_>,
        ) -> ::std::result::Result<Self, #root::PayloadError> {
            match (payload.kind(), payload.version().get()) {
                #(#old)*
                _ => #current,
            }
        }
    }
}

/// From an older version step by step to the current one.
fn chain(events: &Events<'_>, kind: &Kind<'_>, from: usize) -> TokenStream {
    let root = &events.root;
    let (_, first) = &kind.older[from];
    let steps = kind.older[from..].windows(2).map(|pair| {
        let ((version, _), (_, shape)) = (&pair[0], &pair[1]);
        step(root, *version, shape, shape.span())
    });
    let (last, last_shape) = kind.older.last().expect("a chain begins with an older version");
    let newest: Type = match inner(kind.fields) {
        Some(field) if kind.variant.is_some() => pointed_to(field).clone(),
        _ => syn::parse_quote!(Self),
    };
    let last_step = step(root, *last, &newest, last_shape.span());
    let event = match (kind.variant, inner(kind.fields)) {
        (Some(variant), Some(field)) if std::ptr::eq(pointed_to(field), field) => {
            quote!(::std::result::Result::Ok(Self::#variant(value)))
        }
        // `From` is there for every pointer to what it holds.
        (Some(variant), Some(_)) => {
            quote!(::std::result::Result::Ok(Self::#variant(::std::convert::From::from(value))))
        }
        (Some(_), None) => quote!(payload.of_its_kind(#last, value)),
        (None, _) => quote!(::std::result::Result::Ok(value)),
    };
    quote! {
        let value = payload.decode::<<Self as #root::Event>::Codec, #first>()?;
        #(#steps)*
        #last_step
        #event
    }
}

/// One step, which the compiler blames on the shape at `span` where nothing makes it.
fn step(root: &TokenStream, from: u16, to: &Type, span: Span) -> TokenStream {
    let root = respanned(root.clone(), span);
    quote_spanned!(span=> let value: #to = #root::Payload::upcast(#from, value)?;)
}

/// The one field without a name that a variant holds.
fn inner(fields: &Fields) -> Option<&Type> {
    match fields {
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => Some(&fields.unnamed[0].ty),
        _ => None,
    }
}
