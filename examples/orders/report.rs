//! The report: the same bytes for the same orders, however often the run was killed.

use std::fmt::Write;

use crate::audit::Check;
use crate::ledger::Ledger;
use crate::money::{count, dollars};
use crate::rows::OrderFile;
use crate::shop::Tier;

/// How wide the longest bar is, in characters.
const BAR_WIDTH: u64 = 36;
/// How many of the best customers are shown.
const BEST: usize = 10;
/// How many of the rows set aside are shown.
const SET_ASIDE: usize = 5;

/// Writes the report of a finished run. Amounts are the read model's; the checks say whether
/// they are right.
pub(crate) fn write(file: &OrderFile, model: &Ledger, checks: &[Check]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = totals(&mut text, file, model)
        .and_then(|()| months(&mut text, model))
        .and_then(|()| tiers(&mut text, model))
        .and_then(|()| best(&mut text, model))
        .and_then(|()| set_aside(&mut text, file))
        .and_then(|()| verdicts(&mut text, checks));
    text
}

fn totals(text: &mut String, file: &OrderFile, model: &Ledger) -> std::fmt::Result {
    let total = model.total();
    let cds: u64 = file.rows.iter().map(|row| u64::from(row.cds)).sum();
    let points: u64 = model.customers.values().map(|account| account.points).sum();
    writeln!(text, "CDNOW, the orders of {} customers", count(model.customers.len() as u64))?;
    if let (Some(first), Some(last)) = (file.rows.first(), file.rows.last()) {
        writeln!(text, "{} to {}", first.day, last.day)?;
    }
    let mean = total.cents.checked_div(total.orders).unwrap_or_default();
    writeln!(text)?;
    writeln!(text, "  orders   {:>14}   of {} CDs", count(total.orders), count(cds))?;
    writeln!(text, "  revenue  {:>14}   {} an order", dollars(total.cents), dollars(mean))?;
    writeln!(text, "  points   {:>14}", count(points))
}

fn months(text: &mut String, model: &Ledger) -> std::fmt::Result {
    writeln!(text, "\nRevenue by month\n")?;
    let most = model.months.values().map(|revenue| revenue.cents).max().unwrap_or_default();
    for (month, revenue) in &model.months {
        let (orders, sum) = (count(revenue.orders), dollars(revenue.cents));
        writeln!(text, "  {month} {sum:>12} {orders:>7} orders  {}", bar(revenue.cents, most))?;
    }
    Ok(())
}

/// Draws a bar with a resolution of an eighth of a character.
fn bar(part: u64, whole: u64) -> String {
    let eighths = (part * BAR_WIDTH * 8).checked_div(whole).unwrap_or_default();
    let full = "█".repeat(usize::try_from(eighths / 8).unwrap_or_default());
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    full + rest[usize::try_from(eighths % 8).unwrap_or_default()]
}

fn tiers(text: &mut String, model: &Ledger) -> std::fmt::Result {
    writeln!(text, "\nCustomers by tier\n")?;
    let all = model.customers.len() as u64;
    for tier in Tier::ALL.into_iter().rev() {
        let accounts = model.customers.values().filter(|account| account.tier == tier);
        let (customers, cents) =
            accounts.fold((0, 0), |(n, cents), account| (n + 1, cents + account.cents));
        let (number, sum) = (count(customers), dollars(cents));
        writeln!(text, "  {tier:<8} {number:>7}  spent {sum:>14}  {}", bar(customers, all))?;
    }
    Ok(())
}

fn best(text: &mut String, model: &Ledger) -> std::fmt::Result {
    writeln!(text, "\nBest customers\n")?;
    for (rank, (customer, account)) in (1..).zip(model.best(BEST)) {
        let (sum, points) = (dollars(account.cents), count(account.points));
        let (orders, tier) = (account.orders, account.tier);
        writeln!(
            text,
            "  {rank:>2}.  {customer}  {sum:>11}  {orders:>4} orders  {points:>7} points  {tier}"
        )?;
    }
    Ok(())
}

fn set_aside(text: &mut String, file: &OrderFile) -> std::fmt::Result {
    writeln!(text, "\nRows set aside: {}\n", count(file.set_aside.len() as u64))?;
    for row in file.set_aside.iter().take(SET_ASIDE) {
        writeln!(text, "  line {} {}", row.line, row.fault)?;
    }
    match file.set_aside.len().saturating_sub(SET_ASIDE) {
        0 if file.set_aside.is_empty() => Ok(()),
        0 => writeln!(text),
        more => writeln!(text, "  and {more} more\n"),
    }
}

fn verdicts(text: &mut String, checks: &[Check]) -> std::fmt::Result {
    writeln!(text, "Checks\n")?;
    for check in checks {
        let sign = if check.holds { "✓" } else { "✗ FAILED:" };
        writeln!(text, "  {sign} {}\n      {}", check.what, check.found)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_what_was_set_aside_and_what_does_not_hold() {
        let file = OrderFile::parse(b"1 19970101 2 20.00\nx\n2 19970201 1 10.00");
        let model = Ledger::of_rows(&file.rows);
        let holds = Check { what: "one thing", found: "so".into(), holds: true };
        let fails = Check { what: "another", holds: false, ..holds.clone() };
        let text = write(&file, &model, &[holds, fails]);
        assert!(text.contains("  line 2 has not 4 fields but 1"), "{text}");
        assert!(text.contains("  ✓ one thing") && text.contains("  ✗ FAILED: another"), "{text}");
        assert!(text.contains("$30.00   $15.00 an order"), "{text}");
    }

    #[test]
    fn bars_are_in_proportion() {
        assert_eq!(bar(8, 8).chars().count(), 36);
        assert_eq!(bar(1, 16), "██▎");
        assert_eq!(bar(0, 0), "");
    }
}
