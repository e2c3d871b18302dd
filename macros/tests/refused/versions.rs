use headwater_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct V1 {}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum Holes {
    #[event(name = "a", version = 2)]
    NoShape,
    #[event(name = "b", version = 4, from(1 = V1, 3 = V1))]
    Between,
    #[event(name = "c", version = 3, oldest = 2)]
    Behind,
}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum Wrong {
    #[event(name = "d", version = 0)]
    Zero,
    #[event(name = "e", version = 2, from(1 = V1, 2 = V1))]
    NotOlder,
    #[event(name = "f", version = 2, oldest = 2, from(1 = V1))]
    OlderThanOldest,
    #[event(name = "g", version = 2, oldest = 3)]
    NewerThanNew,
    #[event(name = "h", version = 2, from(1 = V1, 1 = V1))]
    TwoShapes,
    #[event(name = "i", version = 2, from(V1))]
    NoVersion,
}

fn main() {}
