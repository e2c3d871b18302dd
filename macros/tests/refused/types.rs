use headwater_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core, name = "a")]
struct Generic<T> {
    order: T,
}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core, name = "b")]
struct Unit;

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum None {}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
#[serde(tag = "kind")]
enum Tagged {
    #[event(name = "c")]
    C {},
}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum Skipped {
    #[event(name = "d")]
    #[serde(skip)]
    D,
}

#[derive(Event)]
#[event(crate = headwater_core)]
union Union {
    e: u32,
}

#[derive(headwater_core::shape::Shape)]
#[event(crate = headwater_core)]
struct GenericShape<T> {
    order: T,
}

fn main() {}
