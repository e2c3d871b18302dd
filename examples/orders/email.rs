//! The email service: a reactor that writes one confirmation for each order to an outbox.
//!
//! The outbox is a file of lines that only grows. Each line is one mail with the key of the event
//! that it answers, and [`Outbox`] writes no key twice: what is delivered again after a crash
//! finds its key in the file. A mail is on the device before its event is acked, and the event is
//! acked before the group commits, so the group never knows of a mail that the file has not.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use headwater::projections::{IdempotencyKey, ReactError, Reactor, async_trait};
use headwater::{RecordedEvent, decode_event};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::money::dollars;
use crate::rows::OrderNumber;
use crate::shop::CustomerEvent;

/// How many mails may wait for the outbox before its writers do.
const WAITING_MAX: usize = 1_024;

/// One confirmation, as it stands in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mail {
    /// Names the event that it answers and the group that answers.
    pub(crate) key: String,
    /// Who gets it.
    pub(crate) to: String,
    /// Which order it confirms.
    pub(crate) order: OrderNumber,
    /// For how much.
    pub(crate) total: String,
    /// What it says.
    pub(crate) text: String,
}

/// Confirms orders. The members of its group share one outbox.
#[derive(Debug)]
pub(crate) struct EmailService {
    outbox: Outbox,
}

impl EmailService {
    /// Writes to an outbox.
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self { outbox }
    }
}

#[async_trait]
impl Reactor for EmailService {
    async fn react(
        &mut self,
        event: &RecordedEvent,
        key: &IdempotencyKey,
    ) -> Result<(), ReactError> {
        let CustomerEvent::OrderPlaced { order, customer, day, cds, cents, points } =
            decode_event(event)?
        else {
            return Ok(());
        };
        let mail = Mail {
            key: key.as_str().to_owned(),
            to: format!("customer-{customer}@example.com"),
            order,
            total: dollars(cents),
            text: format!("Thank you for your {cds} CDs of {day}. They earned {points} points."),
        };
        Ok(self.outbox.write(mail).await?)
    }
}

/// A file of mails that takes each key once. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    letters: mpsc::Sender<Letter>,
}

/// A mail on its way into the file.
#[derive(Debug)]
struct Letter {
    mail: Mail,
    written: oneshot::Sender<Result<(), Arc<io::Error>>>,
}

impl Outbox {
    /// Opens the file, cuts a last line that a crash has torn, and learns which keys are there.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or if a whole line of it is not a mail.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        text.truncate(whole);
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        file.sync_all()?;
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(directory)?.sync_all()?;
        }
        let keys = parse(&text)?.into_iter().map(|mail| mail.key).collect();
        let (letters, waiting) = mpsc::channel(WAITING_MAX);
        let postman = Postman { file, keys };
        thread::Builder::new().name("outbox".into()).spawn(move || postman.run(waiting))?;
        Ok(Self { letters })
    }

    /// Puts a mail into the file, unless its key is there already. When this returns `Ok`, it is
    /// on the device.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, now or ever since.
    async fn write(&self, mail: Mail) -> Result<(), Arc<io::Error>> {
        let closed = |()| Arc::new(io::Error::other("the outbox is closed"));
        let (written, answer) = oneshot::channel();
        self.letters.send(Letter { mail, written }).await.map_err(|_| closed(()))?;
        answer.await.map_err(|_| closed(()))?
    }
}

/// Writes what has gathered with one write and one sync, and only then answers.
#[derive(Debug)]
struct Postman {
    file: File,
    keys: HashSet<String>,
}

impl Postman {
    fn run(mut self, mut waiting: mpsc::Receiver<Letter>) {
        let mut failed = None;
        let mut batch = Vec::new();
        while waiting.blocking_recv_many(&mut batch, WAITING_MAX) > 0 {
            if failed.is_none() {
                // After a failure nobody knows what the file holds: it takes no more.
                failed = self.deliver(&batch).err().map(Arc::new);
            }
            for letter in batch.drain(..) {
                // Who does not wait any more will ask again.
                let _ = letter.written.send(failed.clone().map_or(Ok(()), Err));
            }
        }
    }

    fn deliver(&mut self, batch: &[Letter]) -> io::Result<()> {
        let mut lines = Vec::new();
        for Letter { mail, .. } in batch {
            if self.keys.insert(mail.key.clone()) {
                serde_json::to_writer(&mut lines, mail)?;
                lines.push(b'\n');
            }
        }
        self.file.write_all(&lines)?;
        self.file.sync_data()
    }
}

/// Reads every mail of an outbox, as whole as it must be when nobody writes to it.
///
/// # Errors
///
/// If it cannot be read, or if a line of it is not a mail.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Mail>> {
    parse(&std::fs::read(path)?)
}

fn parse(text: &[u8]) -> io::Result<Vec<Mail>> {
    let lines = text.split_inclusive(|&byte| byte == b'\n').enumerate();
    let mail = |(index, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|error| {
            let line = index + 1;
            io::Error::other(format!("line {line} of the outbox is not a mail: {error}"))
        })
    };
    lines.map(mail).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mail(number: u32) -> Mail {
        Mail {
            key: format!("email/{number}"),
            to: "customer-00001@example.com".into(),
            order: OrderNumber(number),
            total: "$1.00".into(),
            text: "Thank you".into(),
        }
    }

    #[tokio::test]
    async fn each_key_is_written_once_also_by_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox");
        for last in [3, 5] {
            let outbox = Outbox::open(&path).unwrap();
            for number in (1..=last).chain([1]) {
                outbox.write(mail(number)).await.unwrap();
            }
        }
        assert_eq!(read(&path).unwrap(), [1, 2, 3, 4, 5].map(mail));
    }

    #[tokio::test]
    async fn a_torn_line_is_cut_and_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outbox");
        let outbox = Outbox::open(&path).unwrap();
        outbox.write(mail(1)).await.unwrap();
        outbox.write(mail(2)).await.unwrap();
        drop(outbox);
        let whole = fs::read(&path).unwrap();
        for length in whole.len() / 2..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let outbox = Outbox::open(&path).unwrap();
            outbox.write(mail(1)).await.unwrap();
            outbox.write(mail(2)).await.unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole, "cut at {length}");
        }
    }
}
