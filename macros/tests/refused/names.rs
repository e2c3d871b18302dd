use headwater_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum Missing {
    Placed { order: u64 },
    #[event(version = 1)]
    Shipped,
}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
struct Nameless {
    order: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum NoNames {
    #[event(name = "order placed")]
    Space,
    #[event(name = "")]
    Empty,
    #[event(name = "order/placed")]
    Path,
    #[event(name = "fine", formerly = "..")]
    Dots,
}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum Twice {
    #[event(name = "placed")]
    Placed,
    #[event(name = "moved", formerly("shifted", "placed"))]
    Moved,
}

fn main() {}
