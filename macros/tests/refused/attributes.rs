use headwater_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core, name = "a")]
enum OnTheEnum {
    #[event(name = "a")]
    A,
}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum OnTheVariant {
    #[event(name = "a", codec = Bincode)]
    A,
    #[event(name = "b", name = "c")]
    B,
}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core, nmae = "a")]
struct Misspelt {}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core, name = "a")]
struct OnTheField {
    #[event(tags("a:{a}"))]
    a: u32,
}

fn main() {}
