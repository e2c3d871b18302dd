use headwater_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct V1 {}

#[derive(Serialize, Deserialize)]
struct V2 {}

impl From<V2> for Placed {
    fn from(_: V2) -> Self {
        Self {}
    }
}

#[derive(Serialize, Deserialize)]
struct Placed {}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum Order {
    #[event(name = "placed", version = 3, from(1 = V1, 2 = V2))]
    Placed(Placed),
    #[event(name = "moved", version = 2, from(1 = V1))]
    Moved {},
}

fn main() {}
