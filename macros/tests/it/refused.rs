//! Mistakes, and what the compiler says to whoever makes them.

#[test]
fn each_mistake_is_named_where_it_is_made_and_with_its_remedy() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
