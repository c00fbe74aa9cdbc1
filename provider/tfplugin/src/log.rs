//! The plugin's log: a JSON object a line on stderr, in the form that the client takes apart and
//! shows under `TF_LOG`.
//!
//! Owns the form and the level. Fields that are named like a secret are never written, and what
//! is known to be secret in this process is taken out of every other.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
};

use serde_json::{Map, Value as Json};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::{
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::secrets;

/// What is written in place of a secret.
const REDACTED: &str = "(redacted)";
/// A field whose name holds one of these words is a secret.
const SECRET_WORDS: [&str; 8] = [
    "token",
    "password",
    "passwd",
    "secret",
    "credential",
    "authorization",
    "private_key",
    "user_data",
];
/// Libraries that tell more about themselves than anyone wants to know.
const CHATTY: [&str; 6] = ["h2", "hyper", "hyper_util", "rustls", "tonic", "tower"];

/// Where lines go.
pub(crate) trait Sink: Send + Sync + 'static {
    fn line(&self, line: &str);
}

/// Standard error, which the client reads.
#[derive(Debug)]
pub(crate) struct Stderr;

impl Sink for Stderr {
    fn line(&self, line: &str) {
        // Without a reader there is nobody left to complain to.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

/// The level that the user asked for: `TF_LOG_PROVIDER`, else `TF_LOG`, else errors only.
pub(crate) fn level(env: impl Fn(&str) -> Option<String>) -> LevelFilter {
    let asked = ["TF_LOG_PROVIDER", "TF_LOG"].iter().find_map(|name| env(name));
    match asked.unwrap_or_default().to_ascii_uppercase().as_str() {
        "" | "ERROR" => LevelFilter::ERROR,
        "WARN" => LevelFilter::WARN,
        "INFO" => LevelFilter::INFO,
        "DEBUG" => LevelFilter::DEBUG,
        "OFF" => LevelFilter::OFF,
        // As the client does with TRACE, JSON and whatever it does not know.
        _ => LevelFilter::TRACE,
    }
}

/// Starts logging for the whole process. Does nothing when something else already does it.
pub(crate) fn start(level: LevelFilter) {
    let quiet = CHATTY.map(|library| (library, level.min(LevelFilter::WARN)));
    let targets = Targets::new().with_default(level).with_targets(quiet);
    let layer = JsonLines { sink: Stderr }.with_filter(targets);
    let _ = tracing_subscriber::registry().with(layer).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "the provider panicked");
    }));
}

/// Writes each event, with the fields of the spans around it, as one line.
pub(crate) struct JsonLines<S> {
    pub(crate) sink: S,
}

/// The fields of a span, as they are written.
struct SpanFields(Map<String, Json>);

impl<S, T> Layer<T> for JsonLines<S>
where
    S: Sink,
    T: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, T>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields.0));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, T>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = context.span(id)
            && let Some(known) = span.extensions_mut().get_mut::<SpanFields>()
        {
            known.0.extend(fields.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, T>) {
        let mut line = Map::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<SpanFields>() {
                line.extend(fields.0.clone());
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut message = fields.0.remove("message").unwrap_or_default();
        line.extend(fields.0);
        // Only now: what spans noted may have become known as secret since.
        line.values_mut().chain([&mut message]).for_each(hide);
        head(&mut line, event.metadata(), message);
        let mut text = Json::Object(line).to_string();
        text.push('\n');
        self.sink.line(&text);
    }
}

/// Takes out what is known to be secret.
fn hide(value: &mut Json) {
    let clean = match &*value {
        Json::String(text) => secrets::without(text),
        // A secret that is a number may be logged as one.
        Json::Number(number) => secrets::without(&number.to_string()),
        _ => None,
    };
    if let Some(clean) = clean {
        *value = clean.into();
    }
}

fn head(line: &mut Map<String, Json>, metadata: &Metadata<'_>, message: Json) {
    let level = match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let mut now = String::new();
    // Writing to a string does not fail; without a clock there is no time to write.
    let _ = SystemTime.format_time(&mut Writer::new(&mut now));
    line.insert("@level".to_owned(), level.into());
    line.insert("@message".to_owned(), message);
    let module = format!("provider.{}", metadata.target().replace("::", "."));
    line.insert("@module".to_owned(), module.into());
    line.insert("@timestamp".to_owned(), now.into());
}

/// Collects fields, and leaves out what is secret.
#[derive(Default)]
struct Fields(Map<String, Json>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Json>) {
        let name = field.name();
        let lower = name.to_ascii_lowercase();
        let secret = SECRET_WORDS.iter().any(|word| lower.contains(word));
        let value = if secret { REDACTED.into() } else { value.into() };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.put(field, text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Sink for Kept {
        fn line(&self, line: &str) {
            self.0.lock().push(line.to_owned());
        }
    }

    fn logged(work: impl FnOnce()) -> Vec<Json> {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(JsonLines { sink: kept.clone() });
        tracing::subscriber::with_default(subscriber, work);
        let lines = kept.0.lock();
        lines.iter().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    #[test]
    fn a_line_carries_what_the_client_shows() {
        let lines = logged(|| {
            let span = tracing::info_span!("rpc", tf_rpc = "ReadResource", tf_req_id = "1-2");
            span.in_scope(|| tracing::warn!(retries = 3, "slow"));
        });
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!(line["@level"], "warn");
        assert_eq!(line["@message"], "slow");
        assert_eq!(line["tf_rpc"], "ReadResource");
        assert_eq!(line["tf_req_id"], "1-2");
        assert_eq!(line["retries"], 3);
        let time = line["@timestamp"].as_str().expect("a text");
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
    }

    #[test]
    fn secrets_are_left_out() {
        let lines = logged(|| {
            let span = tracing::info_span!("rpc", api_token = "t0k");
            span.in_scope(|| tracing::error!(db_password = ?"p4ss", name = "ok", "failed"));
        });
        let text = lines[0].to_string();
        assert!(!text.contains("t0k") && !text.contains("p4ss"), "{text}");
        assert_eq!(lines[0]["name"], "ok");
    }

    #[test]
    fn known_values_are_left_out_whatever_they_are_called() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "it is read by its Debug form")]
        struct Request {
            header: String,
        }

        let lines = logged(|| {
            let span = tracing::info_span!("call", with = "Bearer fzm_s3cr3t", pin = 73_313_373);
            let _inside = span.enter();
            secrets::keep_secret("fzm_s3cr3t");
            secrets::keep_secret("73313373");
            secrets::keep_secret("two\nlines of a secret");
            let request = Request { header: "two\nlines of a secret".to_owned() };
            tracing::error!("refused fzm_s3cr3t");
            tracing::warn!(code = 73_313_373, "refused");
            tracing::info!(reason = "wrong: lines of a secret", "refused");
            tracing::debug!(?request, error = %io::Error::other("fzm_s3cr3t?"), "refused");
            tracing::trace!(harmless = "two lines", count = 7, "refused");
        });
        assert_eq!(lines.len(), 5);
        for line in &lines {
            let text = line.to_string();
            for secret in ["fzm_s3cr3t", "73313373", "lines of a secret"] {
                assert!(!text.contains(secret), "{text}");
            }
            assert_eq!(line["with"], "Bearer (sensitive value)");
        }
        assert_eq!(lines[0]["@message"], "refused (sensitive value)");
        assert_eq!((&lines[4]["harmless"], &lines[4]["count"]), (&"two lines".into(), &7.into()));
    }

    #[test]
    fn the_provider_level_wins() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                let pair = pairs.iter().find(|(key, _)| *key == name);
                pair.map(|(_, value)| (*value).to_owned())
            }
        };
        assert_eq!(level(env(&[])), LevelFilter::ERROR);
        assert_eq!(level(env(&[("TF_LOG", "debug")])), LevelFilter::DEBUG);
        assert_eq!(level(env(&[("TF_LOG", "JSON")])), LevelFilter::TRACE);
        let both = env(&[("TF_LOG", "trace"), ("TF_LOG_PROVIDER", "warn")]);
        assert_eq!(level(both), LevelFilter::WARN);
        assert_eq!(level(env(&[("TF_LOG", "off")])), LevelFilter::OFF);
    }
}
