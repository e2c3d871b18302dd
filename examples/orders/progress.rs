//! What is shown while it runs: bars on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::money::count;

/// How often plain lines are written.
const LINE_INTERVAL: Duration = Duration::from_millis(500);

const ORDERS_TEMPLATE: &str =
    "{prefix:>8} {bar:40.green} {human_pos:>7} of {human_len} orders, {msg} per second";
const FOLLOWER_TEMPLATE: &str =
    "{prefix:>8} {bar:40.cyan} {human_pos:>7} of {human_len} events, {msg} behind";

/// How far everything is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// How many orders are placed.
    pub(crate) orders: u64,
    /// The last position of the log.
    pub(crate) head: u64,
    /// How many events the email service is behind.
    pub(crate) email_lag: u64,
    /// How many events the loyalty service is behind.
    pub(crate) loyalty_lag: u64,
}

/// Where progress is shown: standard error, so that the report has standard output to itself.
#[derive(Debug)]
pub(crate) struct Screen {
    bars: Option<Bars>,
    total: u64,
    last: (Instant, u64),
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    orders: ProgressBar,
    email: ProgressBar,
    loyalty: ProgressBar,
    /// How many orders an earlier run had placed.
    before: u64,
}

impl Screen {
    /// Shows nothing yet. Of all orders, `before` were placed by an earlier run.
    pub(crate) fn new(total: u64, before: u64) -> Self {
        let bars = io::stderr().is_terminal().then(|| Bars::new(total, before));
        Self { bars, total, last: (Instant::now(), before) }
    }

    /// Shows how far everything is.
    pub(crate) fn show(&mut self, now: Standing) {
        if let Some(bars) = &self.bars {
            return bars.show(now);
        }
        let (at, orders) = self.last;
        let elapsed = at.elapsed();
        if elapsed < LINE_INTERVAL {
            return;
        }
        self.last = (Instant::now(), now.orders);
        eprintln!(
            "orders {} of {} ({} per second), email {} behind, loyalty {} behind",
            count(now.orders),
            count(self.total),
            count(per_second(now.orders - orders, elapsed)),
            count(now.email_lag),
            count(now.loyalty_lag),
        );
    }

    /// Takes the bars away.
    pub(crate) fn close(self) {
        if let Some(Bars { all, .. }) = self.bars {
            // A terminal that is gone has no bars either.
            let _ = all.clear();
        }
    }
}

impl Bars {
    fn new(total: u64, before: u64) -> Self {
        let all = MultiProgress::new();
        let bar = |name: &'static str, template: &str| {
            let style = ProgressStyle::with_template(template);
            let bar = ProgressBar::new(total).with_prefix(name);
            all.add(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
        };
        let orders = bar("orders", ORDERS_TEMPLATE);
        let (email, loyalty) = (bar("email", FOLLOWER_TEMPLATE), bar("loyalty", FOLLOWER_TEMPLATE));
        Self { all, orders, email, loyalty, before }
    }

    fn show(&self, now: Standing) {
        if now.orders < self.orders.length().unwrap_or_default() {
            let rate = per_second(now.orders - self.before, self.orders.elapsed());
            self.orders.set_message(count(rate));
        }
        self.orders.set_position(now.orders);
        for (bar, lag) in [(&self.email, now.email_lag), (&self.loyalty, now.loyalty_lag)] {
            bar.set_length(now.head);
            bar.set_position(now.head.saturating_sub(lag));
            bar.set_message(count(lag));
        }
    }
}

/// Returns how many that is in a second.
pub(crate) fn per_second(many: u64, elapsed: Duration) -> u64 {
    let micros = elapsed.as_micros().max(1);
    u64::try_from(u128::from(many) * 1_000_000 / micros).unwrap_or(u64::MAX)
}
