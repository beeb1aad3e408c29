//! The thread that owns the queue's database.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use wardline_proto::event::Event;

use super::change::{Closing, Run, Sealer, State, Step, acknowledge, drop_some, keep_open, runs};
use super::disk::{Disk, Tx, remember};
use super::{BATCH_RAW, CROWDED, Command, GROUP, Load, Shared, WINDOW, lock};
use crate::journal;
use crate::outage::{Outage, is_busy, trouble};
use crate::outbox::Memory;

/// The thread that owns the database.
pub(super) struct Writer {
    pub(super) disk: Disk,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) state: State,
    pub(super) sealer: Sealer,
    /// The most bytes that may wait.
    pub(super) budget: u64,
    /// Bytes of the closed batches.
    pub(super) closed_bytes: u64,
    pub(super) load: watch::Sender<Load>,
    /// What workflows remember.
    pub(super) memory: Memory,
    pub(super) outage: Outage,
}

impl Writer {
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        self.publish();
        let mut group = Vec::new();
        loop {
            group.clear();
            // While there is something to close and room for it, do not wait for the next command.
            if self.can_close() && self.state.open_bytes > 0 {
                while let (true, Ok(command)) = (group.len() < GROUP, inbox.try_recv()) {
                    group.push(command);
                }
            } else if inbox.blocking_recv_many(&mut group, GROUP) == 0 {
                return;
            }
            self.commit(&mut group);
        }
    }

    fn can_close(&self) -> bool {
        self.state.delivering && self.state.tail.closed.len() < WINDOW
    }

    /// Writes what a group of commands asks for in one transaction, trying again until the disk takes it.
    fn commit(&mut self, group: &mut Vec<Command>) {
        let mut broken = false;
        let mut pause = Duration::from_millis(50);
        let step = loop {
            // A failed write or fsync proves nothing about the next: the connection is made anew before another try.
            let result = if broken { self.disk.reopen() } else { Ok(()) };
            let error = match result.and_then(|()| self.transaction(group)) {
                Ok(step) => break step,
                Err(error) => error,
            };
            self.outage.failed(trouble(&self.disk.path, &error));
            broken = broken || !is_busy(&error);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(2));
        };
        self.outage.over();
        let Step { state, closed, replaced, dropped, events } = step;
        events.into_iter().for_each(journal::emit);
        if dropped > 0 {
            journal::emit(Event::QueueFull {
                group: self.sealer.group.to_string(),
                dropped: dropped.to_string(),
                budget: format!("{} bytes", self.budget),
            });
        }
        self.state = state;
        {
            let mut shared = lock(&self.shared);
            if replaced {
                shared.ready.clear();
                shared.handed = (0, 0);
            }
            let gone = shared.ready.partition_point(|batch| batch.link.last <= self.state.tail.acknowledged.number);
            shared.ready.drain(..gone);
            shared.ready.extend(closed);
            shared.tail.clone_from(&self.state.tail);
            shared.written = self.state.written;
            self.closed_bytes = shared.ready.iter().map(|batch| batch.bytes.len() as u64).sum();
        }
        self.publish();
        for command in group.drain(..) {
            match command {
                Command::Put(put, done) => {
                    self.remember(put.memory);
                    let _ = done.send(());
                }
                Command::Compared(_, done) => {
                    let _ = done.send(());
                }
                Command::Acknowledged(_) | Command::Parted => {}
            }
        }
    }

    /// What is durable is what a workflow that begins anew goes on from.
    fn remember(&self, put: Vec<(String, Option<Bytes>)>) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in put {
            match value {
                Some(value) => memory.insert(key, value),
                None => memory.remove(&key),
            };
        }
    }

    fn publish(&self) {
        let bytes = self.state.open_bytes + self.closed_bytes;
        let crowded = bytes >= CROWDED.min(self.budget / 2) || self.state.tail.closed.len() >= WINDOW;
        self.load.send_replace(Load { bytes, crowded });
    }

    fn transaction(&mut self, group: &[Command]) -> rusqlite::Result<Step> {
        let transaction = self.disk.connection.transaction()?;
        let tx = Tx { connection: &transaction, rows: &self.disk.rows };
        let (state, closed) = (self.state.clone(), Vec::new());
        let mut step = Step { state, closed, replaced: false, dropped: 0, events: Vec::new() };
        let mut fresh: Vec<Run> = Vec::new();
        for command in group {
            match command {
                Command::Put(put, _) => {
                    fresh.extend(runs(&put.entries));
                    for (key, value) in &put.memory {
                        remember(&tx, key, value.as_deref())?;
                    }
                }
                Command::Acknowledged(mark) => acknowledge(&tx, &mut step, mark)?,
                Command::Parted => step.state.delivering = false,
                Command::Compared(verdict, _) => {
                    self.sealer.compared(&tx, &mut step, verdict)?;
                }
            }
        }
        // What is fresh goes straight into batches when nothing older waits, otherwise behind what waits.
        let mut closing =
            Closing { sealer: &self.sealer, step: &mut step, raw: Vec::with_capacity(BATCH_RAW + 4096), numbers: 0 };
        if closing.step.state.open_bytes > 0 {
            for run in fresh.drain(..) {
                keep_open(&tx, closing.step, &run)?;
            }
            closing.close_open(&tx)?;
        } else {
            let mut fresh = fresh.into_iter();
            for run in fresh.by_ref() {
                if !closing.room() {
                    keep_open(&tx, closing.step, &run)?;
                    break;
                }
                closing.step.state.written += run.numbers;
                closing.take(&tx, &run.body, run.numbers)?;
            }
            closing.flush(&tx)?;
            for run in fresh {
                keep_open(&tx, closing.step, &run)?;
            }
        }
        let closed: u64 = step.closed.iter().map(|batch| batch.bytes.len() as u64).sum();
        let kept = if step.replaced { 0 } else { self.closed_bytes };
        let over = (step.state.open_bytes + closed + kept).saturating_sub(self.budget);
        if over > 0 {
            drop_some(&tx, &mut step, over)?;
        }
        transaction.commit()?;
        Ok(step)
    }
}
