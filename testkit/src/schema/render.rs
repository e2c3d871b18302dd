//! Shapes as lines.

use headwater_core::shape::{Body, Field, Part, TypeShape, TypeUse, VersionShape};
use headwater_core::{CodecId, EventKind, RegisteredType, Registry};

use super::file::{KindLock, Lock, VersionLock};

/// What the types of a registry store. Of older versions the file knows the codec.
pub(super) fn lock(registry: &Registry, locked: &Lock) -> Lock {
    let kinds = registry.types().iter().flat_map(|of| of.kinds.iter().map(move |kind| (of, kind)));
    let all = kinds.map(|(of, kind)| (kind.name.to_owned(), kind_lock(of, kind, locked)));
    all.collect()
}

/// Finds a kind in the file, under the name it has or one it had.
pub(super) fn find<'l>(
    locked: &'l Lock,
    name: &str,
    formerly: &KindLock,
) -> Option<(&'l str, &'l KindLock)> {
    let names = std::iter::once(name).chain(formerly.formerly.iter().map(String::as_str));
    names.filter_map(|name| locked.get_key_value(name)).map(|(name, kind)| (&**name, kind)).next()
}

fn kind_lock(of: &RegisteredType, kind: &EventKind, locked: &Lock) -> KindLock {
    let formerly = kind.formerly.iter().map(|&name| name.to_owned()).collect();
    let mut lock = KindLock { formerly, ..KindLock::default() };
    let before = find(locked, kind.name, &lock).map(|(_, before)| before.clone());
    for number in kind.oldest.get()..=kind.version.get() {
        let known = before.as_ref().and_then(|before| before.versions.get(&number));
        let codec = if number == kind.version.get() {
            of.codec.to_string()
        } else {
            known.map(|known| known.codec.clone()).unwrap_or_default()
        };
        // Where fields have names in what is stored, their order says nothing.
        let sorted = codec == CodecId::JSON.to_string();
        let shape =
            of.shapes.iter().find(|shape| shape.kind == kind.name && shape.version.get() == number);
        let mut lines = Lines { sorted, out: Vec::new(), within: Vec::new() };
        match shape {
            Some(shape) => lines.version(shape),
            None => lines.line(0, format_args!("not described")),
        }
        lock.versions.insert(number, VersionLock { codec, lines: lines.out });
    }
    lock
}

struct Lines {
    sorted: bool,
    out: Vec<String>,
    /// The types that are being described, the outermost first.
    within: Vec<&'static str>,
}

impl Lines {
    fn line(&mut self, depth: usize, text: std::fmt::Arguments<'_>) {
        self.out.push(format!("{:1$}{text}", "", depth * 2));
    }

    /// A version is described alike as a variant, as the struct inside of one, and as the struct that
    /// is kept of it later.
    fn version(&mut self, shape: &VersionShape) {
        let mut whole = TypeShape { serde: shape.serde, body: shape.body };
        let mut entered = 0;
        while let Body::As(TypeUse { name, parts: [part] }) = whole.body {
            let inner = (part.shape)();
            let Some(inner) = inner.filter(|_| part.name == name && !self.within.contains(&name))
            else {
                break;
            };
            self.within.push(name);
            entered += 1;
            whole = inner;
        }
        match whole.body {
            Body::As(of) => self.used(0, "", of, whole.serde),
            body => {
                if !whole.serde.is_empty() {
                    self.line(0, format_args!("(serde: {})", whole.serde));
                }
                self.body(0, body);
            }
        }
        self.within.truncate(self.within.len() - entered);
    }

    /// What stands within braces, as it were.
    fn body(&mut self, depth: usize, body: Body) {
        match body {
            Body::Unit | Body::Struct([]) => self.line(depth, format_args!("nothing")),
            Body::As(of) => self.used(depth, "", of, ""),
            Body::Tuple(fields) => fields.iter().for_each(|field| self.field(depth, field)),
            Body::Struct(fields) => {
                let mut fields: Vec<&Field> = fields.iter().collect();
                if self.sorted {
                    fields.sort_by_key(|field| field.name);
                }
                for field in fields {
                    self.field(depth, field);
                }
            }
            Body::Enum(variants) => {
                let mut variants: Vec<_> = variants.iter().collect();
                if self.sorted {
                    variants.sort_by_key(|variant| variant.name);
                }
                for variant in variants {
                    self.shaped(depth, variant.name, variant.serde, variant.body);
                }
            }
        }
    }

    fn field(&mut self, depth: usize, field: &Field) {
        self.used(depth, &format!("{}: ", field.name), field.of, field.serde);
    }

    /// A type where it is used. One that describes itself needs no name.
    fn used(&mut self, depth: usize, before: &str, of: TypeUse, serde: &str) {
        let told = told(serde);
        if let [part] = of.parts
            && part.name == of.name
            && !self.within.contains(&part.name)
            && let Some(shape) = (part.shape)()
        {
            let all = [serde, shape.serde].into_iter().filter(|text| !text.is_empty());
            let serde = all.collect::<Vec<_>>().join(", ");
            self.within.push(part.name);
            self.shaped(depth, before.trim_end_matches([':', ' ']), &serde, shape.body);
            self.within.pop();
            return;
        }
        let opaque = matches!(of.parts, [part] if part.name == of.name && (part.shape)().is_none());
        let note = if opaque { " (not described)" } else { "" };
        self.line(depth, format_args!("{before}{}{note}{told}", of.name));
        if !opaque {
            of.parts.iter().for_each(|part| self.part(depth + 1, part));
        }
    }

    /// A type within another one, such as that of the items of a list.
    fn part(&mut self, depth: usize, part: &Part) {
        if self.within.contains(&part.name) {
            return self.line(depth, format_args!("{}: as above", part.name));
        }
        match (part.shape)() {
            None => self.line(depth, format_args!("{}: not described", part.name)),
            Some(shape) => {
                self.within.push(part.name);
                self.shaped(depth, part.name, shape.serde, shape.body);
                self.within.pop();
            }
        }
    }

    /// A name, and what it is.
    fn shaped(&mut self, depth: usize, name: &str, serde: &str, body: Body) {
        let told = told(serde);
        let colon = if name.is_empty() { "" } else { ": " };
        let what = match body {
            Body::As(of) => return self.used(depth, &format!("{name}{colon}"), of, serde),
            Body::Unit | Body::Struct([]) => "nothing",
            Body::Tuple(_) => "tuple",
            Body::Struct(_) => "struct",
            Body::Enum(_) => "one of",
        };
        self.line(depth, format_args!("{name}{colon}{what}{told}"));
        if what != "nothing" {
            self.body(depth + 1, body);
        }
    }
}

fn told(serde: &str) -> String {
    if serde.is_empty() { String::new() } else { format!(" (serde: {serde})") }
}
