//! What serde is told of a type, as far as it matters here.

use proc_macro2::{TokenStream, TokenTree};
use syn::{Attribute, Error, LitStr, Result, Type};

/// One thing that serde is told, such as `rename = "x"`.
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) tokens: TokenStream,
}

/// Collects what serde is told by attributes.
pub(crate) fn told(attributes: &[Attribute]) -> Vec<Told> {
    let lists = attributes.iter().filter(|attribute| attribute.path().is_ident("serde"));
    let mut all = Vec::new();
    for list in lists.filter_map(|attribute| attribute.meta.require_list().ok()) {
        let mut one: Vec<TokenTree> = Vec::new();
        let mut end = |one: &mut Vec<TokenTree>| {
            if let Some(first) = one.first() {
                all.push(Told { name: first.to_string(), tokens: one.drain(..).collect() });
            }
        };
        for token in list.tokens.clone() {
            match &token {
                TokenTree::Punct(punct) if punct.as_char() == ',' => end(&mut one),
                _ => one.push(token),
            }
        }
        end(&mut one);
    }
    all
}

/// Refuses what an event cannot have.
pub(crate) fn refuse(attributes: &[Attribute], names: &[&str], why: &str) -> Result<()> {
    let Some(told) = told(attributes).into_iter().find(|told| names.contains(&&*told.name)) else {
        return Ok(());
    };
    let name = &told.name;
    Err(Error::new_spanned(told.tokens, format!("an event cannot have serde({name}): {why}")))
}

/// Returns what serde is told as one text, without what says nothing of the stored shape.
pub(crate) fn text(attributes: &[Attribute], without: &[&str]) -> String {
    let silent = ["borrow", "bound", "crate", "expecting"];
    let all = told(attributes);
    let shown =
        all.iter().filter(|told| !silent.contains(&&*told.name) && !without.contains(&&*told.name));
    let mut texts: Vec<_> = shown.map(|told| told.tokens.to_string()).collect();
    texts.sort();
    texts.join(", ")
}

/// Returns the name that serde is told to store.
pub(crate) fn renamed(attributes: &[Attribute]) -> Option<String> {
    literal(attributes, "rename").map(|text| text.value())
}

/// Returns the type that serde is told to store instead.
pub(crate) fn stored_as(attributes: &[Attribute]) -> Option<Type> {
    let names = ["into", "try_from", "from"];
    names.iter().find_map(|name| literal(attributes, name)?.parse().ok())
}

/// Returns whether serde is told this.
pub(crate) fn is_told(attributes: &[Attribute], name: &str) -> bool {
    told(attributes).iter().any(|told| told.name == name)
}

/// Returns the text of `name = "text"`.
fn literal(attributes: &[Attribute], name: &str) -> Option<LitStr> {
    let told = told(attributes).into_iter().find(|told| told.name == name)?;
    let mut tokens = told.tokens.into_iter().skip(1);
    match (tokens.next()?, tokens.next()?) {
        (TokenTree::Punct(_), TokenTree::Literal(literal)) => {
            syn::parse_str(&literal.to_string()).ok()
        }
        _ => None,
    }
}
