//! A matcher over `serde_json::Value`, written from the documentation of event-ruler alone: the
//! event is flattened into paths and values that know in which elements of which lists they lie,
//! and a rule matches if values can be chosen of which no two lie in different elements of one
//! list.

use std::net::IpAddr;
use std::slice::from_ref;

use serde_json::{Map, Value, json};

use crate::codec::CodecId;
use crate::event::NewEvent;
use crate::name::Tag;

/// In which element of which list.
type Membership = Vec<(usize, usize)>;

struct Leaf {
    path: Vec<String>,
    value: Value,
    membership: Membership,
}

/// What a rule asks of a path, with lists split so that absence stands alone.
#[derive(Clone)]
enum Demand {
    Any(Vec<Value>),
    Absent,
}

type Rule = Vec<(Vec<String>, Demand)>;

pub(super) fn matches(pattern: &Value, event: &NewEvent) -> bool {
    let mut leaves = Vec::new();
    flatten(&envelope(event), &[], &[], &[], &mut 0, &mut leaves);
    rules(pattern.as_object().unwrap(), &[]).iter().any(|rule| choose(rule, 0, &[], &leaves))
}

fn envelope(event: &NewEvent) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("id", json!(event.id.to_string()));
    put("type", json!(event.event_type.as_str()));
    put("stream", json!(event.stream.as_str()));
    put("category", json!(event.stream.category()));
    put("time", json!(event.event_time.to_string()));
    put("schemaversion", json!(event.schema_version.get()));
    put("tags", json!(event.tags.iter().map(Tag::as_str).collect::<Vec<_>>()));
    if let Some(id) = event.correlation_id {
        put("correlationid", json!(id.to_string()));
    }
    if let Some(id) = event.causation_id {
        put("causationid", json!(id.to_string()));
    }
    if let Some(key) = &event.key {
        put("partitionkey", json!(key.as_str()));
    }
    let mut headers = Map::new();
    for (name, value) in event.headers.iter() {
        let values = headers.entry(name).or_insert_with(|| json!([]));
        values.as_array_mut().unwrap().push(json!(value));
    }
    put("headers", headers.into());
    if let (CodecId::JSON, Ok(data)) = (event.codec, serde_json::from_slice(&event.payload)) {
        put("data", data);
    }
    fields.into()
}

/// `object` is where the innermost object lies, `here` where this value does.
fn flatten(
    value: &Value,
    path: &[String],
    object: &[(usize, usize)],
    here: &[(usize, usize)],
    lists: &mut usize,
    leaves: &mut Vec<Leaf>,
) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = [path, from_ref(key)].concat();
                flatten(value, &path, here, here, lists, leaves);
            }
        }
        Value::Array(items) => {
            let list = *lists;
            *lists += 1;
            for (index, item) in items.iter().enumerate() {
                let here = [here, &[(list, index)]].concat();
                flatten(item, path, object, &here, lists, leaves);
            }
        }
        value => leaves.push(Leaf {
            path: path.to_vec(),
            value: value.clone(),
            membership: object.to_vec(),
        }),
    }
}

/// Every way to take one branch of each `$or`, and absence or a value of each list.
fn rules(fields: &Map<String, Value>, path: &[String]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = vec![Vec::new()];
    for (key, value) in fields {
        let here = [path, from_ref(key)].concat();
        let choices: Vec<Rule> = match value {
            Value::Array(branches) if key == "$or" => branches
                .iter()
                .flat_map(|branch| self::rules(branch.as_object().unwrap(), path))
                .collect(),
            Value::Object(fields) => self::rules(fields, &here),
            Value::Array(list) => {
                let absent = json!({"exists": false});
                let mut choices = Vec::new();
                if list.contains(&absent) {
                    choices.push(vec![(here.clone(), Demand::Absent)]);
                }
                let any: Vec<_> = list.iter().filter(|item| **item != absent).cloned().collect();
                if !any.is_empty() {
                    choices.push(vec![(here, Demand::Any(any))]);
                }
                choices
            }
            other => panic!("{other}"),
        };
        rules = rules
            .iter()
            .flat_map(|rule| choices.iter().map(move |choice| [&rule[..], &choice[..]].concat()))
            .collect();
    }
    rules
}

/// Tries every value for the demands from `next` on; absence is looked at when all are chosen.
fn choose(rule: &Rule, next: usize, chosen: &[(usize, usize)], leaves: &[Leaf]) -> bool {
    let Some((path, demand)) = rule.get(next) else {
        return rule.iter().all(|(path, demand)| match demand {
            Demand::Any(_) => true,
            Demand::Absent => {
                !leaves.iter().any(|l| l.path == *path && consistent(&l.membership, chosen))
            }
        });
    };
    match demand {
        Demand::Absent => choose(rule, next + 1, chosen, leaves),
        Demand::Any(list) => leaves.iter().any(|leaf| {
            leaf.path == *path
                && consistent(&leaf.membership, chosen)
                && list.iter().any(|item| item_matches(item, &leaf.value))
                && choose(rule, next + 1, &[chosen, &leaf.membership].concat(), leaves)
        }),
    }
}

fn consistent(a: &[(usize, usize)], b: &[(usize, usize)]) -> bool {
    a.iter().all(|(list, index)| b.iter().all(|(l, i)| l != list || i == index))
}

fn item_matches(item: &Value, value: &Value) -> bool {
    let Value::Object(item) = item else { return equal(item, value) };
    let (operator, argument) = item.iter().next().unwrap();
    match &**operator {
        "exists" => argument == &json!(true),
        "anything-but" => match argument {
            Value::Object(inner) => {
                let (operator, arguments) = inner.iter().next().unwrap();
                let list = arguments.as_array().cloned().unwrap_or_else(|| vec![arguments.clone()]);
                !list.iter().any(|argument| text_matches(operator, argument, value))
            }
            Value::Array(list) => !list.iter().any(|excluded| equal(excluded, value)),
            excluded => !equal(excluded, value),
        },
        "numeric" => {
            let Some(value) = value.as_f64() else { return false };
            argument.as_array().unwrap().chunks(2).all(|pair| {
                let bound = pair[1].as_f64().unwrap();
                match pair[0].as_str().unwrap() {
                    "<" => value < bound,
                    "<=" => value <= bound,
                    ">" => value > bound,
                    ">=" => value >= bound,
                    _ => (value - bound).abs() == 0.0,
                }
            })
        }
        "cidr" => {
            let (network, length) = argument.as_str().unwrap().split_once('/').unwrap();
            let (IpAddr::V4(network), Some(Ok(IpAddr::V4(address)))) =
                (network.parse().unwrap(), value.as_str().map(str::parse))
            else {
                return false;
            };
            let shift = 32 - length.parse::<u32>().unwrap();
            let top = |address: std::net::Ipv4Addr| u64::from(u32::from(address)) >> shift;
            top(network) == top(address)
        }
        operator => text_matches(operator, argument, value),
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() == 0.0,
        _ => a == b,
    }
}

fn text_matches(operator: &str, argument: &Value, value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    let uncased = argument.get("equals-ignore-case").map(|inner| inner.as_str().unwrap());
    let (argument, text) = match uncased {
        Some(argument) => (argument.to_lowercase(), text.to_lowercase()),
        None => (argument.as_str().unwrap().to_owned(), text.to_owned()),
    };
    match operator {
        "prefix" => text.starts_with(&argument),
        "suffix" => text.ends_with(&argument),
        "equals-ignore-case" => text.to_lowercase() == argument.to_lowercase(),
        "wildcard" => {
            glob(&argument.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
        }
        other => panic!("{other}"),
    }
}

fn glob(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], text) => text.is_empty(),
        (['*', rest @ ..], text) => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
        (['\\', c, rest @ ..] | [c, rest @ ..], [first, others @ ..]) => {
            c == first && glob(rest, others)
        }
        _ => false,
    }
}
