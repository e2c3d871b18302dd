//! What customers and months come to: the shape that the read model and the file's own fold
//! share, so that the two can be compared.

use std::collections::BTreeMap;

use crate::rows::Row;
use crate::shop::Tier;

/// What a customer has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// How many orders.
    pub(crate) orders: u64,
    /// For how many cents.
    pub(crate) cents: u64,
    /// With how many points.
    pub(crate) points: u64,
    /// In which tier.
    pub(crate) tier: Tier,
}

/// What a month, or all of them, came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revenue {
    /// How many orders.
    pub(crate) orders: u64,
    /// For how many cents.
    pub(crate) cents: u64,
}

impl Revenue {
    /// Adds one order.
    pub(crate) fn add(&mut self, cents: u64) {
        self.orders += 1;
        self.cents += cents;
    }
}

/// All customers and all months.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// By customer number.
    pub(crate) customers: BTreeMap<String, Account>,
    /// By month, such as `1997-01`.
    pub(crate) months: BTreeMap<String, Revenue>,
}

impl Ledger {
    /// Folds the rows of a file, which come by date, with nothing of the log in between.
    pub(crate) fn of_rows(rows: &[Row]) -> Self {
        let mut ledger = Self::default();
        for row in rows {
            let account = ledger.customers.entry(row.customer.clone()).or_default();
            account.points += account.tier.points_for(row.cents);
            account.orders += 1;
            account.cents += row.cents;
            account.tier = Tier::of_spent(account.cents);
            ledger.months.entry(row.day.month()).or_default().add(row.cents);
        }
        ledger
    }

    /// Sums the customers.
    pub(crate) fn total(&self) -> Revenue {
        let sum = |total: Revenue, account: &Account| Revenue {
            orders: total.orders + account.orders,
            cents: total.cents + account.cents,
        };
        self.customers.values().fold(Revenue::default(), sum)
    }

    /// Returns the customers who spent most, and how much.
    pub(crate) fn best(&self, count: usize) -> Vec<(&str, Account)> {
        let mut all: Vec<(&str, Account)> =
            self.customers.iter().map(|(name, account)| (name.as_str(), *account)).collect();
        all.sort_by_key(|&(_, account)| std::cmp::Reverse(account.cents));
        all.truncate(count);
        all
    }
}
