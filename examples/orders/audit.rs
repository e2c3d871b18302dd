//! Checking the outcome against the file: the log, the read model and the outbox, each as it is
//! stored, none through the code that wrote it.

use std::collections::HashMap;
use std::error::Error;

use headwater::{Position, Store, decode_event};

use crate::email::Mail;
use crate::ledger::{Ledger, Revenue};
use crate::money::{count, dollars};
use crate::rows::{Day, OrderNumber, Row};
use crate::shop::CustomerEvent;

/// Something that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// What it is.
    pub(crate) what: &'static str,
    /// What was found.
    pub(crate) found: String,
    /// Whether it holds.
    pub(crate) holds: bool,
}

impl Check {
    fn new(what: &'static str, holds: bool, found: String) -> Self {
        Self { what, found, holds }
    }
}

/// Walks the log and compares its orders with the rows.
pub(crate) fn log(store: &Store, rows: &[Row]) -> Result<Vec<Check>, Box<dyn Error + Send + Sync>> {
    let wanted: HashMap<OrderNumber, &Row> = rows.iter().map(|row| (row.order, row)).collect();
    let mut times_found: HashMap<OrderNumber, u32> = HashMap::with_capacity(wanted.len());
    let mut last: HashMap<String, (Day, OrderNumber)> = HashMap::new();
    let (mut differing, mut disordered, mut total) = (0, 0, Revenue::default());
    let mut scan = store.scan(Position::START)?;
    while let Some(event) = scan.next() {
        let event = event?.to_event()?;
        let CustomerEvent::OrderPlaced { order, customer, day, cds, cents, .. } =
            decode_event(&event)?
        else {
            continue;
        };
        total.add(cents);
        *times_found.entry(order).or_default() += 1;
        let row = Row { order, customer: customer.clone(), day, cds, cents };
        differing += u64::from(wanted.get(&order) != Some(&&row));
        let before = last.insert(customer, (day, order));
        disordered += u64::from(before >= Some((day, order)));
    }
    let doubled = times_found.values().filter(|&&times| times > 1).count() as u64;
    let missing = rows.iter().filter(|row| !times_found.contains_key(&row.order)).count() as u64;
    let file_cents: u64 = rows.iter().map(|row| row.cents).sum();
    let all = rows.len() as u64;
    Ok(vec![
        Check::new(
            "every order of the file is in the log once",
            (total.orders, missing, doubled, differing) == (all, 0, 0, 0),
            format!(
                "{} orders, {missing} missing, {doubled} doubled, {differing} different",
                count(total.orders)
            ),
        ),
        Check::new(
            "each customer's orders are in order",
            disordered == 0,
            format!("{} customers, {disordered} out of order", count(last.len() as u64)),
        ),
        Check::new(
            "the log has the file's dollars",
            total.cents == file_cents,
            format!("{} and {}", dollars(total.cents), dollars(file_cents)),
        ),
    ])
}

/// Compares the read model with the fold of the file.
pub(crate) fn read_model(model: &Ledger, file: &Ledger) -> Vec<Check> {
    let differing = |ours: usize, theirs: usize, equal: usize| ours.max(theirs) - equal;
    let (ours, theirs) = (&model.customers, &file.customers);
    let equal = ours.iter().filter(|&(name, account)| theirs.get(name) == Some(account)).count();
    let customers = differing(ours.len(), theirs.len(), equal);
    let (ours, theirs) = (&model.months, &file.months);
    let equal = ours.iter().filter(|&(month, sum)| theirs.get(month) == Some(sum)).count();
    let months = differing(ours.len(), theirs.len(), equal);
    let (total, wanted) = (model.total(), file.total());
    vec![
        Check::new(
            "the read model's customers equal the file's fold",
            customers == 0,
            format!(
                "{} customers with orders, cents, points and tier, {customers} differ",
                count(model.customers.len() as u64)
            ),
        ),
        Check::new(
            "the read model's months equal the file's fold",
            months == 0,
            format!("{} months, {months} differ", model.months.len()),
        ),
        Check::new(
            "the read model's dollars equal the file's, to the cent",
            total == wanted,
            format!("{} and {}", dollars(total.cents), dollars(wanted.cents)),
        ),
    ]
}

/// Compares the outbox with the rows.
pub(crate) fn outbox(mails: &[Mail], rows: &[Row]) -> Vec<Check> {
    let mut by_key: HashMap<&str, u32> = HashMap::with_capacity(mails.len());
    let mut by_order: HashMap<OrderNumber, (u32, &Mail)> = HashMap::with_capacity(mails.len());
    for mail in mails {
        *by_key.entry(&mail.key).or_default() += 1;
        by_order.entry(mail.order).or_insert((0, mail)).0 += 1;
    }
    let keys = by_key.values().filter(|&&times| times > 1).count();
    let doubled = by_order.values().filter(|(times, _)| *times > 1).count();
    let (mut missing, mut wrong) = (0, 0);
    for row in rows {
        match by_order.get(&row.order) {
            None => missing += 1,
            Some((_, mail)) => {
                let to = format!("customer-{}@example.com", row.customer);
                wrong += u32::from(mail.to != to || mail.total != dollars(row.cents));
            }
        }
    }
    let sent = mails.len();
    vec![Check::new(
        "every order has exactly one email",
        sent == rows.len() && (keys, doubled, missing, wrong) == (0, 0, 0, 0),
        format!(
            "{} emails, {missing} missing, {doubled} doubled, {wrong} wrong",
            count(sent as u64)
        ),
    )]
}
