use headwater_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum Tags {
    #[event(name = "a", tags("order:{id}"))]
    NoField { order: u64 },
    #[event(name = "b", tags("order:{0}"))]
    NoFields,
    #[event(name = "c", tags("order:{order:?}"))]
    Format { order: u64 },
    #[event(name = "d", tags("order:{order"))]
    Brace { order: u64 },
    #[event(name = "e")]
    NoValue {
        #[event(tag = "order")]
        order: u64,
    },
    #[event(name = "f")]
    OtherField {
        #[event(tag = "order:{day}")]
        order: u64,
        day: u64,
    },
    #[event(name = "g", key = "{order}")]
    TwoKeys {
        #[event(key)]
        order: u64,
    },
}

fn main() {}
