//! The one map from what went wrong at the broker to what the user reads.
//!
//! Each text says what was attempted, on which id, why it did not work and what to do. A field
//! that is to blame becomes the attribute's path.

use fairmazon_model::{DomainError, ErrorKind};
use tfplugin::{Diagnostic, Diagnostics};

use crate::{
    client::{Address, ClientError, Origin, Unreachable, Untrusted},
    path,
};

/// What was attempted, for the summary: "Unable to VERB the NOUN".
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// `create`, `read`, …
    pub verb: &'static str,
    /// `instance`, `volume`, …
    pub noun: &'static str,
    /// Its id, once there is one.
    pub id: Option<&'a str>,
}

impl<'a> Attempt<'a> {
    /// An attempt on something that has no id yet.
    pub const fn new(verb: &'static str, noun: &'static str) -> Self {
        Self { verb, noun, id: None }
    }

    /// An attempt on the thing of this id.
    pub const fn on(verb: &'static str, noun: &'static str, id: &'a str) -> Self {
        Self { verb, noun, id: Some(id) }
    }

    /// What the user reads of the error.
    pub fn failed(self, error: &ClientError) -> Diagnostics {
        match error {
            ClientError::Refused { error, request_id } => {
                self.domain_facts(error, request_id, Vec::new())
            }
            ClientError::Failed { operation, error, request_id } => {
                self.domain_facts(error, request_id, vec![format!("Operation: {operation}")])
            }
            ClientError::Unreachable { endpoint, cause } => {
                self.plain(&unreachable(endpoint, *cause), UNREACHABLE_ADVICE)
            }
            ClientError::Untrusted { endpoint, cause } => {
                let (why, advice) = untrusted(endpoint, cause);
                self.plain(&why, advice)
            }
            ClientError::Late { limit } => self.plain(
                &format!("The broker did not answer within {} seconds.", limit.as_secs()),
                "It may still do what was asked. Run the same command again: nothing is made \
                 twice.",
            ),
            ClientError::NoIdentity => self.plain(
                "Its host waits for the keys of its volumes, which only you can make, and the \
                 provider has no identity to make them with.",
                NO_IDENTITY_ADVICE,
            ),
            ClientError::Keys(error) => self.plain(
                &sentence(&format!("no key can be given to its host: {error}")),
                "Nothing was sent. The machine waits for its keys; run the same command again when \
                 that is mended.",
            ),
            ClientError::Nonsense(what) => self.plain(
                &format!("The broker answered, but {what}."),
                "The broker may be of another version than this provider. Use versions that \
                 belong together.",
            ),
        }
    }

    /// What the user reads of an error of the platform's rules that was found here.
    pub fn refused(self, error: &DomainError) -> Diagnostics {
        self.domain_facts(error, "", Vec::new())
    }

    fn domain_facts(
        self,
        error: &DomainError,
        request_id: &str,
        mut facts: Vec<String>,
    ) -> Diagnostics {
        if !request_id.is_empty() {
            facts.push(format!("Request: {request_id}"));
        }
        let advice = match error.advice.as_str() {
            // The broker can't know how its clients are told their credentials, and where from they
            // have an id.
            _ if matches!(error.kind, ErrorKind::Unauthenticated | ErrorKind::NotFound) => {
                self.advice(error.kind).to_owned()
            }
            "" => self.advice(error.kind).to_owned(),
            given => sentence(given),
        };
        let diagnostic = self.diagnostic(&sentence(&error.message), &advice, &facts);
        match error.field.as_deref().map(path::of_field).filter(|path| !path.is_root()) {
            Some(path) => diagnostic.at(path).into(),
            None => diagnostic.into(),
        }
    }

    /// What to do where the broker did not say.
    fn advice(self, kind: ErrorKind) -> &'static str {
        match kind {
            ErrorKind::NotFound if self.verb == "import" => IMPORT_ADVICE,
            kind => advice(kind),
        }
    }

    fn plain(self, why: &str, advice: &str) -> Diagnostics {
        self.diagnostic(why, advice, &[]).into()
    }

    fn diagnostic(self, why: &str, advice: &str, facts: &[String]) -> Diagnostic {
        let id = self.id.map(|id| format!("Id: {id}"));
        let facts: Vec<_> = id.iter().chain(facts).map(String::as_str).collect();
        let parts = [why, advice, &facts.join(", ")];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Diagnostic::error(format!("Unable to {} the {}", self.verb, self.noun))
            .detail(parts.join("\n\n"))
    }
}

/// An error in the form of a plan's own check: at the attribute, without a broker.
pub fn invalid(summary: &str, error: &DomainError) -> Diagnostics {
    let text = match error.advice.as_str() {
        "" => sentence(&error.message),
        advice => format!("{}\n\n{}", sentence(&error.message), sentence(advice)),
    };
    let diagnostic = Diagnostic::error(summary).detail(text);
    match &error.field {
        Some(field) => diagnostic.at(path::of_field(field)).into(),
        None => diagnostic.into(),
    }
}

/// How to give the provider an identity.
pub const NO_IDENTITY_ADVICE: &str = "Make one with `fairmazon key init FILE`, keep a copy of it \
    where nobody else gets it, and set `key_file` in the provider block or FAIRMAZON_KEY_FILE in \
    the environment to its path. Without it nobody can ever read the volumes that it was used for.";

/// With a capital first letter and a full stop.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let Some(first) = characters.next() else { return String::new() };
    // A word in back quotes, or an id, keeps its spelling.
    let first_word = text.split(' ').next().unwrap_or_default();
    let keeps = first_word.contains(['-', '_', '.', '`']);
    let mut sentence: String =
        if keeps { first.to_string() } else { first.to_uppercase().collect() };
    sentence.push_str(characters.as_str());
    if !sentence.ends_with(['.', '!', '?', ':']) {
        sentence.push('.');
    }
    sentence
}

/// What to do about an import of what is not there.
const IMPORT_ADVICE: &str = "Check the id, and that the provider is set to the platform and the \
    account that it belongs to. `terraform query` shows what can be imported, and the data source \
    `fairmazon_instances` shows instances.";

/// What to do about it, whatever was attempted.
const fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Conflict => "Run the same command again: it reads what holds now.",
        ErrorKind::NoCapacity => {
            "Ask for less, name flavors in `flavor_fallback`, loosen `placement`, or try later."
        }
        ErrorKind::LimitExceeded => "Use less, or ask the platform's operator for a higher limit.",
        ErrorKind::BudgetExceeded => "Raise the budget of the account, or remove something.",
        ErrorKind::Unauthenticated => {
            "The token or the client certificate is wrong, has expired or was revoked. Set a valid \
             one with `token` in the provider block or FAIRMAZON_TOKEN (or with \
             `client_certificate` and `client_key`, FAIRMAZON_CLIENT_CERTIFICATE and \
             FAIRMAZON_CLIENT_KEY)."
        }
        ErrorKind::Forbidden => {
            "The credential is valid but its role does not allow this. Use one of the account's \
             owner."
        }
        ErrorKind::Unavailable => "Try again in a moment.",
        ErrorKind::Internal => {
            "Try again. If it stays, tell the platform's operator the request below."
        }
        ErrorKind::NotFound => {
            "Check the id, and that the provider is set to the account that it belongs to. It may \
             have been deleted by somebody else: the next plan reads what is there. A reference, \
             such as `fairmazon_volume.data.id`, goes along with what it refers to; the text of an \
             id does not."
        }
        ErrorKind::AlreadyExists => {
            "Import what exists, or make the new one different from it, by its name for example."
        }
        ErrorKind::Invalid => {
            "Correct it in the configuration. What may stand there is on the page of the resource \
             in the provider's documentation."
        }
        ErrorKind::Precondition => {
            "Change what stands in the way first, or wait until what is under way has ended. Then \
             run the same command again."
        }
    }
}

const UNREACHABLE_ADVICE: &str = "Check that the broker runs, and that the address is its own. Run \
    the same command again when it is back: nothing is made twice and nothing is lost.";

fn unreachable(endpoint: &Address, cause: Unreachable) -> String {
    let why = match cause {
        Unreachable::ConnectionRefused => "the connection was refused, so nothing listens there",
        Unreachable::NameNotFound => "there is no host of that name",
        Unreachable::Broken => "the connection broke or was never answered",
    };
    let origin = match endpoint.origin {
        Origin::Block => "`endpoint` in the provider block",
        Origin::Environment => "FAIRMAZON_ENDPOINT in the environment",
    };
    format!("The broker at {} can't be reached: {why}. The address is from {origin}.", endpoint.url)
}

fn untrusted(endpoint: &str, cause: &Untrusted) -> (String, &'static str) {
    match cause {
        Untrusted::UnknownIssuer => (
            format!(
                "The certificate of {endpoint} was issued by an authority that is not trusted."
            ),
            "If the broker has an authority of its own, name its certificate with \
             `ca_certificate` in the provider block or FAIRMAZON_CA_CERTIFICATE. If it has not, \
             somebody may be between you and the broker: do not go on.",
        ),
        Untrusted::Expired => (
            format!("The certificate of {endpoint} has expired, or is not valid yet."),
            "Check the clock of this machine. If it is right, the broker's operator has to renew \
             the certificate.",
        ),
        Untrusted::WrongName => (
            format!("The certificate of {endpoint} is for another name."),
            "Write the endpoint with the name that stands in the certificate.",
        ),
        Untrusted::NotTls => (
            format!("What listens at {endpoint} does not speak TLS."),
            "Check the port in `endpoint` or FAIRMAZON_ENDPOINT.",
        ),
        Untrusted::ClientCertificate => (
            format!("The broker at {endpoint} does not accept the client certificate."),
            "It may not be registered. Set a valid one with `client_certificate` and `client_key` \
             (FAIRMAZON_CLIENT_CERTIFICATE and FAIRMAZON_CLIENT_KEY), or use a token instead.",
        ),
        Untrusted::ClientCertificateExpired => (
            format!(
                "The broker at {endpoint} says that the client certificate has expired, or is not \
                 valid yet."
            ),
            "Check the clock of this machine. If it is right, set a valid certificate with \
             `client_certificate` and `client_key` (FAIRMAZON_CLIENT_CERTIFICATE and \
             FAIRMAZON_CLIENT_KEY), or use a token instead.",
        ),
        Untrusted::Other(text) => (
            format!("No trusted connection to {endpoint} came about: {text}."),
            "Check `endpoint`, `ca_certificate` and the client certificate.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(error: &ClientError) -> String {
        Attempt::on("change", "instance", "ins-1").failed(error).to_string()
    }

    #[test]
    fn a_refusal_says_what_why_where_and_what_to_do() {
        let error = DomainError::invalid("boot_volume.size_gib", "a volume can't shrink")
            .advise("make a smaller volume");
        let told = Attempt::on("change", "instance", "ins-1")
            .failed(&ClientError::Refused { error: Box::new(error), request_id: "r-7".to_owned() });
        let one = told.iter().next().unwrap();
        assert_eq!(one.summary(), "Unable to change the instance");
        assert_eq!(one.path().unwrap().to_string(), "boot_volume.size_gib");
        let detail = one.detail_text();
        for part in
            ["A volume can't shrink.", "Make a smaller volume.", "Id: ins-1", "Request: r-7"]
        {
            assert!(detail.contains(part), "{part} is missing in: {detail}");
        }
    }

    #[test]
    fn each_broken_connection_has_its_own_text() {
        let endpoint = "https://broker.example".to_owned();
        let untrusted = |cause| ClientError::Untrusted { endpoint: endpoint.clone(), cause };
        let address = Address { url: endpoint.clone(), origin: Origin::Environment };
        let unreachable = |cause| ClientError::Unreachable { endpoint: address.clone(), cause };
        let texts = [
            text(&untrusted(Untrusted::UnknownIssuer)),
            text(&untrusted(Untrusted::Expired)),
            text(&untrusted(Untrusted::WrongName)),
            text(&untrusted(Untrusted::NotTls)),
            text(&untrusted(Untrusted::ClientCertificate)),
            text(&untrusted(Untrusted::ClientCertificateExpired)),
            text(&unreachable(Unreachable::ConnectionRefused)),
            text(&unreachable(Unreachable::NameNotFound)),
            text(&unreachable(Unreachable::Broken)),
            text(&ClientError::Late { limit: Duration::from_secs(30) }),
        ];
        let different: std::collections::BTreeSet<_> = texts.iter().collect();
        assert_eq!(different.len(), texts.len());
        assert!(texts[0].contains("FAIRMAZON_CA_CERTIFICATE"));
        assert!(texts[6].contains("refused"));
    }

    /// All kinds, in their order: one that is added has to be put here to compile.
    fn kinds() -> Vec<ErrorKind> {
        use ErrorKind::*;
        let next = |kind: &ErrorKind| match kind {
            NotFound => Some(AlreadyExists),
            AlreadyExists => Some(Invalid),
            Invalid => Some(Precondition),
            Precondition => Some(Conflict),
            Conflict => Some(NoCapacity),
            NoCapacity => Some(LimitExceeded),
            LimitExceeded => Some(BudgetExceeded),
            BudgetExceeded => Some(Unauthenticated),
            Unauthenticated => Some(Forbidden),
            Forbidden => Some(Unavailable),
            Unavailable => Some(Internal),
            Internal => None,
        };
        std::iter::successors(Some(NotFound), next).collect()
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in kinds() {
            for verb in ["create", "import"] {
                let error = Box::new(DomainError::new(kind, "it is so"));
                let error = ClientError::Refused { error, request_id: String::new() };
                let told = Attempt::on(verb, "volume", "vol-1").failed(&error);
                let detail = told.iter().next().unwrap().detail_text().to_owned();
                let parts: Vec<_> = detail.split("\n\n").collect();
                let [why, advice, facts] = parts[..] else { panic!("{kind:?}: {detail}") };
                assert_eq!((why, facts), ("It is so.", "Id: vol-1"));
                assert!(advice.len() > 20 && advice.ends_with('.'), "{kind:?}: {advice}");
                seen.insert(advice.to_owned());
            }
        }
        // Each kind its own, and an unknown id of an import another than one in a configuration.
        assert_eq!(seen.len(), kinds().len() + 1);
        assert!(seen.iter().any(|advice| advice.contains("terraform query")));
    }

    #[test]
    fn a_wrong_token_names_both_ways_to_set_it() {
        let error = DomainError::new(ErrorKind::Unauthenticated, "the token is unknown");
        let error = Box::new(DomainError { advice: "use a valid token".to_owned(), ..error });
        let told = text(&ClientError::Refused { error, request_id: String::new() });
        assert!(told.contains("`token`") && told.contains("FAIRMAZON_TOKEN"), "{told}");
    }

    #[test]
    fn ids_keep_their_spelling_at_the_start_of_a_sentence() {
        assert_eq!(sentence("ins-1 is protected"), "ins-1 is protected.");
        assert_eq!(sentence("it is gone"), "It is gone.");
        assert_eq!(sentence(""), "");
    }
}
