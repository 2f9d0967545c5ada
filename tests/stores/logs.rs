//! What is logged while a test does something, on its own thread.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

/// Lines of a log.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// As the operator logs at its lowest level: its own lines all, those of libraries from INFO on.
    pub(crate) fn of_operator() -> (Self, DefaultGuard) {
        let own = Targets::new().with_target("virtual_account_operator", LevelFilter::TRACE);
        Self::filtered(own.with_default(LevelFilter::INFO))
    }

    /// Everything down to this level, until the guard is dropped.
    pub(crate) fn capture(level: LevelFilter) -> (Self, DefaultGuard) {
        Self::filtered(Targets::new().with_default(level))
    }

    fn filtered(filter: Targets) -> (Self, DefaultGuard) {
        let logs = Self::default();
        let writer = logs.clone();
        let lines = fmt::layer().with_ansi(false).with_writer(move || writer.clone()).with_filter(filter);
        let guard = tracing::subscriber::set_default(Registry::default().with(lines));
        (logs, guard)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Logs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
