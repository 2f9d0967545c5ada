//! Log lines on stderr, their level from `RUST_LOG` (default `info`), and a panic hook.
//!
//! Secrets stay out whatever `RUST_LOG` says. Libraries print what they send and receive at their lower levels, and
//! kube-client prints at WARN the whole body of an answer that it cannot parse, which may be a Secret. An `EnvFilter`
//! directive could be overridden by a more specific one, or by one that names a span, so a second filter stands beside
//! it that `RUST_LOG` cannot reach: our own lines pass at any level, those of others from INFO on, and the few
//! exceptions are in the table `EXCEPTIONS`.

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is not understood.
    #[error("RUST_LOG is not a list of directives such as info or virtual_account_operator=debug,hyper_util=debug")]
    Directives(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody set a subscriber before.
    #[error("logging is set up twice")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging to stderr; panics are logged from then on. Once per process.
pub fn init(format: LogFormat) -> Result<(), TelemetryError> {
    let directives = std::env::var("RUST_LOG").unwrap_or_default();
    subscriber(format, &directives, io::stderr, io::stderr().is_terminal())?.try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Targets whose lines are safe at a lower level than INFO, or unsafe even above it. The first match counts: the target
/// itself or a module below it.
const EXCEPTIONS: [(&str, LevelFilter); 7] = [
    ("virtual_account_operator", LevelFilter::TRACE),
    // Method, URL and status of each request.
    ("kube_client::client::builder", LevelFilter::DEBUG),
    // Which certificate files were reloaded.
    ("kube_client::client::tls", LevelFilter::INFO),
    // The bodies that could not be parsed, and response headers.
    ("kube_client::client", LevelFilter::OFF),
    // Each failed handshake at ERROR, without a word on where to: the store's own message has it.
    ("rustls_platform_verifier", LevelFilter::OFF),
    // Which address is connected to.
    ("hyper_util::client::legacy::connect", LevelFilter::DEBUG),
    // Names of protocol versions and cipher suites.
    ("rustls", LevelFilter::DEBUG),
];

fn allowed(target: &str, level: Level) -> bool {
    let below = |name: &str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let limit = EXCEPTIONS.iter().find(|(name, _)| below(name)).map_or(LevelFilter::INFO, |(_, limit)| *limit);
    level <= limit
}

fn subscriber<W>(
    format: LogFormat,
    directives: &str,
    writer: W,
    ansi: bool,
) -> Result<impl Subscriber + Send + Sync + use<W>, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse(directives)?;
    let safe = filter_fn(|metadata: &Metadata<'_>| allowed(metadata.target(), *metadata.level()));
    let lines = tracing_subscriber::fmt::layer::<Registry>().with_writer(writer);
    let layer = match format {
        LogFormat::Text => lines.with_ansi(ansi).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    Ok(Registry::default().with(layer.with_filter(wanted.and(safe))))
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let panic = info.payload_as_str().unwrap_or("no message");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(location, panic, "panicked");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, directives: &str, work: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let subscriber = subscriber(format, directives, move || sink.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_directive_brings_bodies_into_the_log() {
        for directives in [
            "trace",
            "kube_client=trace,kube_client::client=trace,h2=trace,hyper=trace,axum=trace",
            "trace,[request]=trace,[request{canary}]=trace",
        ] {
            let text = logged(LogFormat::Text, directives, || {
                let span = tracing::info_span!(target: "virtual_account_operator", "request", canary = 1);
                let _entered = span.enter();
                tracing::warn!(target: "kube_client::client", "canary");
                tracing::debug!(target: "kube_client::client", "canary");
                tracing::trace!(target: "h2::codec::framed_read", "canary");
                tracing::trace!(target: "hyper::proto::h1::io", "canary");
                tracing::trace!(target: "rustls::conn", "canary");
                tracing::trace!(target: "axum::rejection", "canary");
                tracing::debug!(target: "kube_runtime::watcher", "canary");
                tracing::warn!(target: "kube_runtime::watcher", "heard");
                tracing::trace!(target: "virtual_account_operator::account", "ours");
                tracing::debug!(target: "kube_client::client::builder", "requesting");
            });
            assert!(!text.contains(" canary\n"), "{directives}: {text}");
            assert_eq!(text.contains("heard"), directives.starts_with("trace"), "{directives}: {text}");
            assert_eq!(text.contains("ours"), directives.starts_with("trace"), "{directives}: {text}");
        }
    }

    #[test]
    fn info_is_the_default_and_json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, "", || {
            tracing::debug!(target: "virtual_account_operator", "quiet");
            tracing::info!(target: "virtual_account_operator", listener = "ops", address = "127.0.0.1:1", "listening");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "listening");
        assert_eq!(line["listener"], "ops");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn similar_names_get_no_exception() {
        assert!(!allowed("virtual_account_operator_evil", Level::DEBUG));
        assert!(!allowed("kube_client::client::middleware", Level::ERROR));
        assert!(allowed("kube_client::config", Level::WARN));
    }

    #[test]
    fn unreadable_directives_name_the_variable() {
        let error = subscriber(LogFormat::Text, "a=b=c", io::sink, false).err().unwrap();
        assert!(error.to_string().contains("RUST_LOG"), "{error}");
    }
}
