//! The provider block: what may stand in it, its twins in the environment, and what they mean
//! together. What is written in the block wins over the environment.

use std::{collections::BTreeMap, path::Path};

use fairmazon_model::{limits, price::NanoEur};
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, Attribute, AttributePath, Diagnostic, Diagnostics, Schema, Type, schema::validators,
};

use crate::{
    client::{Address, Credential, Origin},
    diagnostics,
    keyring::Keyring,
};

/// The provider block.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SettingsModel {
    endpoint: Attr<String>,
    token: Attr<String>,
    client_certificate: Attr<String>,
    client_key: Attr<String>,
    ca_certificate: Attr<String>,
    key_file: Attr<String>,
    host_authority: Attr<String>,
    default_labels: Attr<BTreeMap<String, Attr<String>>>,
    max_price_per_hour: Attr<String>,
}

/// What the provider block and the environment mean together.
pub struct Settings {
    /// How to get to the broker; nothing while a part of it is not known yet.
    pub access: Option<Access>,
    /// Labels for every resource; nothing while they are not known yet.
    pub default_labels: Option<BTreeMap<String, String>>,
    /// The guard over the whole configuration.
    pub max_price_per_hour: Option<NanoEur>,
}

/// How to get to the broker.
pub struct Access {
    /// Where the broker is.
    pub endpoint: Address,
    /// Who we are.
    pub credential: Credential,
    /// PEM certificates to trust instead of the system's.
    pub ca_pem: Option<String>,
    /// Makes the keys of volumes; none where no identity is set.
    pub keyring: Option<Keyring>,
}

/// What settings are read from beside the provider block.
pub struct Surroundings<'a> {
    /// An environment variable's value.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// A file's text, or why it can't be read.
    pub read: &'a dyn Fn(&Path) -> Result<String, std::io::Error>,
}

/// The attributes of the provider block.
pub fn schema() -> Schema {
    Schema::builder()
        .describe(
            "Machines and volumes on provider hosts of Fairmazon. Everything can be set in the \
             block or in the environment; what stands in the block wins.",
        )
        .attribute(Attribute::string("endpoint").optional().describe(
            "Address of the broker, as `https://broker.example.com:8443`. Or `FAIRMAZON_ENDPOINT`.",
        ))
        .attribute(Attribute::string("token").optional().sensitive().describe(
            "Token of the account. Or `FAIRMAZON_TOKEN`. Not together with `client_certificate`.",
        ))
        .attribute(Attribute::string("client_certificate").optional().describe(
            "Client certificate instead of a token: a path, or the PEM text. Or \
             `FAIRMAZON_CLIENT_CERTIFICATE`.",
        ))
        .attribute(Attribute::string("client_key").optional().sensitive().describe(
            "Private key of the client certificate: a path, or the PEM text. Or \
             `FAIRMAZON_CLIENT_KEY`.",
        ))
        .attribute(Attribute::string("ca_certificate").optional().describe(
            "Authority to trust instead of the system's: a path, or the PEM text. Or \
             `FAIRMAZON_CA_CERTIFICATE`.",
        ))
        .attribute(Attribute::string("key_file").optional().describe(
            "Path of the file with your identity, as `fairmazon key init` makes it: an age \
             identity. The keys of your volumes are made with it, here, and nobody else can open \
             them. Hosts that were given a key are noted beside it, in a file of the same name and \
             `.hosts`. Needed where keys are given: to make instances, snapshots, and volumes from \
             other volumes or snapshots, to raise `key_version`, and to destroy with \
             `final_snapshot`. Or `FAIRMAZON_KEY_FILE`.",
        ))
        .attribute(Attribute::string("host_authority").optional().describe(
            "Authority that signs for the platform's hosts, where it is not that of \
             `ca_certificate`: a path, or the PEM text. Or `FAIRMAZON_HOST_AUTHORITY`.",
        ))
        .attribute(Attribute::map("default_labels", Type::String).optional().describe(
            "Labels for every resource of this provider; a resource's own label of the same key \
             wins. Or `FAIRMAZON_DEFAULT_LABELS`, as `team=web,env=test`: a value with a comma in \
             it can only stand in the block.",
        ))
        .attribute(
            Attribute::string("max_price_per_hour")
                .optional()
                .validate(validators::string("an amount in EUR above zero", amount))
                .describe(
                    "Refuses a plan whose instances and volumes together cost more than this in \
                     an hour, in EUR. It guards against mistakes, and is no budget of the account: \
                     each provider configuration, an alias too, adds up what it plans in one run, \
                     and what other configurations have is not in the sum. A value that is not \
                     known in the plan can't be checked there: neither the price of a resource \
                     that depends on one, nor anything while this limit itself is unknown. Or \
                     `FAIRMAZON_MAX_PRICE_PER_HOUR`.",
                ),
        )
        .build()
}

fn amount(text: &str) -> Result<(), String> {
    match text.parse::<NanoEur>() {
        Ok(NanoEur(nano)) if nano > 0 => Ok(()),
        Ok(_) => Err("it is not above zero".to_owned()),
        Err(error) => Err(error.message),
    }
}

impl SettingsModel {
    /// Reads block and environment together.
    ///
    /// # Errors
    /// What is missing, contradictory or unreadable, with both ways to set it.
    pub fn resolve(&self, around: &Surroundings<'_>) -> Result<Settings, Diagnostics> {
        let mut problems = Diagnostics::new();
        let default_labels = keep(&mut problems, self.default_labels(around)).flatten();
        let max_price_per_hour = keep(&mut problems, self.max_price(around)).flatten();
        let access = keep(&mut problems, self.access(around)).flatten();
        if problems.has_errors() {
            return Err(problems);
        }
        Ok(Settings { access, default_labels, max_price_per_hour })
    }

    fn default_labels(
        &self,
        around: &Surroundings<'_>,
    ) -> Result<Option<BTreeMap<String, String>>, Diagnostics> {
        let labels = match &self.default_labels {
            Attr::Null => return labels_of_environment(around).map(Some),
            Attr::Unknown => return Ok(None),
            Attr::Value(labels) => labels,
        };
        let mut known = BTreeMap::new();
        for (key, value) in labels {
            match value {
                Attr::Value(value) => known.insert(key.clone(), value.clone()),
                Attr::Unknown => return Ok(None),
                Attr::Null => {
                    let path = AttributePath::new("default_labels").key(key.as_str());
                    return Err(Diagnostic::error("Invalid default label")
                        .detail("A label needs a value; leave it out or write \"\".")
                        .at(path)
                        .into());
                }
            };
        }
        checked(known).map(Some)
    }

    fn max_price(&self, around: &Surroundings<'_>) -> Result<Option<NanoEur>, Diagnostics> {
        let found = find("max_price_per_hour", &self.max_price_per_hour, around);
        let Found::Given(text) = found else { return Ok(None) };
        let wrong =
            |reason: String| at("max_price_per_hour", "Invalid limit of the price", &reason);
        amount(&text).map_err(wrong)?;
        text.parse().map(Some).map_err(|error: fairmazon_model::DomainError| wrong(error.message))
    }

    fn access(&self, around: &Surroundings<'_>) -> Result<Option<Access>, Diagnostics> {
        let mut problems = Diagnostics::new();
        let endpoint = keep(&mut problems, self.endpoint(around)).flatten();
        let credential = keep(&mut problems, self.credential(around)).flatten();
        let ca = keep(&mut problems, self.ca(around)).unwrap_or(Found::Unknown);
        let host_authority = pem("host_authority", &self.host_authority, around);
        let host_authority = keep(&mut problems, host_authority).unwrap_or(Found::Unknown);
        let key_file = find("key_file", &self.key_file, around);
        if problems.has_errors() {
            return Err(problems);
        }
        let ca_pem = match ca {
            Found::Unknown => return Ok(None),
            Found::Absent => None,
            Found::Given(pem) => Some(pem),
        };
        let (Some(endpoint), Some(credential)) = (endpoint, credential) else { return Ok(None) };
        let authorities = match host_authority {
            Found::Unknown => return Ok(None),
            Found::Absent => ca_pem.clone(),
            Found::Given(pem) => Some(pem),
        };
        let keyring = match key_file {
            Found::Unknown => return Ok(None),
            Found::Absent => None,
            Found::Given(path) => Some(keyring(&path, authorities)?),
        };
        Ok(Some(Access { endpoint, credential, ca_pem, keyring }))
    }

    fn endpoint(&self, around: &Surroundings<'_>) -> Result<Option<Address>, Diagnostics> {
        let text = match find("endpoint", &self.endpoint, around) {
            Found::Given(text) => text,
            Found::Unknown => return Ok(None),
            Found::Absent => {
                return Err(Diagnostics::error(
                    "The provider does not know where the broker is",
                    "Set `endpoint` in the provider block, or the environment variable \
                     FAIRMAZON_ENDPOINT, to an address like https://broker.example.com:8443.",
                ));
            }
        };
        check_endpoint(&text).map_err(|reason| at("endpoint", "Invalid endpoint", &reason))?;
        let origin = if self.endpoint.is_null() { Origin::Environment } else { Origin::Block };
        Ok(Some(Address { url: text.trim_end_matches('/').to_owned(), origin }))
    }

    fn ca(&self, around: &Surroundings<'_>) -> Result<Found, Diagnostics> {
        pem("ca_certificate", &self.ca_certificate, around)
    }

    fn credential(&self, around: &Surroundings<'_>) -> Result<Option<Credential>, Diagnostics> {
        let block_has = |attr: &Attr<String>| !matches!(attr, Attr::Null);
        let certificate_in_block =
            block_has(&self.client_certificate) || block_has(&self.client_key);
        let token_in_block = block_has(&self.token);
        if certificate_in_block && token_in_block {
            let all = [&self.token, &self.client_certificate, &self.client_key];
            // What is not known yet may turn out to be nothing.
            return if all.iter().any(|attr| attr.is_unknown()) {
                Ok(None)
            } else {
                Err(both("in the provider block"))
            };
        }
        // What stands in the block silences the environment's other way.
        let token =
            if certificate_in_block { Found::Absent } else { find("token", &self.token, around) };
        let has_certificate = |name: &str| (around.env)(name).is_some_and(|text| !text.is_empty());
        let certificate_wanted = certificate_in_block
            || (!token_in_block
                && (has_certificate("FAIRMAZON_CLIENT_CERTIFICATE")
                    || has_certificate("FAIRMAZON_CLIENT_KEY")));
        match token {
            Found::Given(_) if certificate_wanted => Err(both("in the environment")),
            Found::Given(token) if token.chars().any(|c| c.is_control() || c == ' ') => Err(at(
                "token",
                "Invalid token",
                "It holds a space or a line break, which no token does. Was a whole file or line \
                 taken instead of the token?",
            )),
            Found::Given(token) => Ok(Some(Credential::Token(token))),
            Found::Unknown => Ok(None),
            Found::Absent if certificate_wanted => self.certificate(around),
            Found::Absent => Err(Diagnostics::error(
                "The provider has no credential",
                "Set `token` in the provider block or FAIRMAZON_TOKEN in the environment; or a \
                 client certificate with `client_certificate` and `client_key`, or \
                 FAIRMAZON_CLIENT_CERTIFICATE and FAIRMAZON_CLIENT_KEY.",
            )),
        }
    }

    fn certificate(&self, around: &Surroundings<'_>) -> Result<Option<Credential>, Diagnostics> {
        let certificate = pem("client_certificate", &self.client_certificate, around)?;
        let key = pem("client_key", &self.client_key, around)?;
        match (certificate, key) {
            (Found::Given(certificate_pem), Found::Given(key_pem)) => {
                Ok(Some(Credential::Certificate { certificate_pem, key_pem }))
            }
            (Found::Unknown, _) | (_, Found::Unknown) => Ok(None),
            (Found::Absent, _) => Err(missing_half("client_certificate", "client_key")),
            (_, Found::Absent) => Err(missing_half("client_key", "client_certificate")),
        }
    }
}

/// Labels as they stand in the environment: `key=value,key=value`.
fn labels_of_environment(
    around: &Surroundings<'_>,
) -> Result<BTreeMap<String, String>, Diagnostics> {
    let text = (around.env)("FAIRMAZON_DEFAULT_LABELS").unwrap_or_default();
    let wrong = |reason: String| {
        let detail = format!(
            "FAIRMAZON_DEFAULT_LABELS is {text:?}, and {reason}. Write it as team=web,env=test."
        );
        at("default_labels", "Invalid default label", &detail)
    };
    let mut labels = BTreeMap::new();
    for one in text.split(',').filter(|_| !text.is_empty()) {
        let (key, value) =
            one.split_once('=').ok_or_else(|| wrong(format!("{one:?} has no `=`")))?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(wrong(format!("{key:?} is in it twice")));
        }
    }
    checked(labels)
}

fn checked(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Diagnostics> {
    limits::check_labels(&labels).map_err(|mut error| {
        error.field = error.field.map(|field| format!("default_{field}"));
        diagnostics::invalid("Invalid default label", &error)
    })?;
    Ok(labels)
}

/// One setting, wherever it came from.
enum Found {
    Absent,
    Unknown,
    Given(String),
}

fn find(name: &str, block: &Attr<String>, around: &Surroundings<'_>) -> Found {
    match block {
        Attr::Value(text) => Found::Given(text.clone()),
        Attr::Unknown => Found::Unknown,
        Attr::Null => {
            let variable = format!("FAIRMAZON_{}", name.to_uppercase());
            (around.env)(&variable)
                .filter(|text| !text.is_empty())
                .map_or(Found::Absent, Found::Given)
        }
    }
}

/// A setting that is PEM text or the path of a file with it.
fn pem(name: &str, block: &Attr<String>, around: &Surroundings<'_>) -> Result<Found, Diagnostics> {
    let Found::Given(given) = find(name, block, around) else {
        return Ok(find(name, block, around));
    };
    let text = if given.trim_start().starts_with("-----BEGIN") {
        given
    } else {
        (around.read)(Path::new(&given)).map_err(|error| {
            at(name, "Unable to read a file of the provider's settings", &format!(
                "`{name}` (or FAIRMAZON_{}) names the file {given:?}, which can't be read: {error}. \
                 Give a path, or the PEM text itself.",
                name.to_uppercase()
            ))
        })?
    };
    if !text.contains("-----BEGIN") {
        return Err(at(
            name,
            "Not a PEM file",
            &format!(
                "`{name}` (or FAIRMAZON_{}) must be PEM text, with a line -----BEGIN …-----, or the \
             path of such a file.",
                name.to_uppercase()
            ),
        ));
    }
    Ok(Found::Given(text))
}

/// Reads the identity and the hosts that are known beside it.
fn keyring(path: &str, authorities: Option<String>) -> Result<Keyring, Diagnostics> {
    let wrong = |reason: String| at("key_file", "Unable to use the identity", &reason);
    let set = "`key_file` (or FAIRMAZON_KEY_FILE)";
    let authorities = authorities.ok_or_else(|| {
        wrong(format!(
            "{set} is set, and nothing says who signs for the platform's hosts, so no host could \
             be believed. Set `host_authority` (or FAIRMAZON_HOST_AUTHORITY) to the certificate \
             that the platform publishes for that."
        ))
    })?;
    Keyring::open(Path::new(path), authorities)
        .map_err(|error| wrong(format!("It is set by {set}, and {error}.")))
}

fn check_endpoint(text: &str) -> Result<(), String> {
    let example = "Write it as https://broker.example.com:8443.";
    let Some(rest) = text.strip_prefix("https://") else {
        return Err(format!(
            "{text:?} does not begin with https://: the broker is reached over \
                            TLS only. {example}"
        ));
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let strange = |c: char| c.is_whitespace() || c.is_control() || "/?#@".contains(c);
    if host.is_empty() || host.contains(strange) {
        return Err(format!("{text:?} is more or less than a host and a port. {example}"));
    }
    Ok(())
}

fn both(place: &str) -> Diagnostics {
    Diagnostics::error(
        "The provider has two credentials",
        format!(
            "Both a token and a client certificate are set {place}, and only one can be used. Keep \
             `token` (FAIRMAZON_TOKEN), or `client_certificate` and `client_key` \
             (FAIRMAZON_CLIENT_CERTIFICATE and FAIRMAZON_CLIENT_KEY)."
        ),
    )
}

fn missing_half(missing: &str, given: &str) -> Diagnostics {
    at(
        missing,
        "Half of the client certificate is missing",
        &format!(
            "`{given}` is set but `{missing}` is not. Set it in the provider block, or \
             FAIRMAZON_{} in the environment.",
            missing.to_uppercase()
        ),
    )
}

fn at(attribute: &str, summary: &str, detail: &str) -> Diagnostics {
    Diagnostic::error(summary).detail(detail).at(attribute).into()
}

/// Collects a problem and goes on, so that all of them are told at once.
fn keep<T>(problems: &mut Diagnostics, result: Result<T, Diagnostics>) -> Option<T> {
    match result {
        Ok(found) => Some(found),
        Err(problem) => {
            problems.extend(problem);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

    fn resolve(model: &SettingsModel, env: &[(&str, &str)]) -> Result<Settings, String> {
        let env = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let read = |path: &Path| {
            if path == Path::new("there.pem") {
                Ok(PEM.to_owned())
            } else {
                Err(std::io::Error::from(std::io::ErrorKind::NotFound))
            }
        };
        let around = Surroundings { env: &env, read: &read };
        model.resolve(&around).map_err(|problems| problems.to_string())
    }

    fn given(text: &str) -> Attr<String> {
        Attr::Value(text.to_owned())
    }

    const ENDPOINT: (&str, &str) = ("FAIRMAZON_ENDPOINT", "https://env.example:1");
    const TOKEN: (&str, &str) = ("FAIRMAZON_TOKEN", "env-token");

    fn token_of(settings: &Settings) -> &str {
        match &settings.access.as_ref().unwrap().credential {
            Credential::Token(token) => token,
            Credential::Certificate { .. } => "a certificate",
        }
    }

    #[test]
    fn the_block_wins_over_the_environment() {
        let model = SettingsModel {
            endpoint: given("https://block.example/"),
            token: given("block-token"),
            ..SettingsModel::default()
        };
        let both = [ENDPOINT, TOKEN, ("FAIRMAZON_CLIENT_CERTIFICATE", "there.pem")];
        let settings = resolve(&model, &both).unwrap();
        let endpoint_of = |settings: &Settings| settings.access.as_ref().unwrap().endpoint.clone();
        let address = |url: &str, origin| Address { url: url.to_owned(), origin };
        assert_eq!(endpoint_of(&settings), address("https://block.example", Origin::Block));
        assert_eq!(token_of(&settings), "block-token");
        let settings = resolve(&SettingsModel::default(), &both[..2]).unwrap();
        assert_eq!(endpoint_of(&settings), address(ENDPOINT.1, Origin::Environment));
        assert_eq!(token_of(&settings), "env-token");
    }

    #[test]
    fn what_is_missing_names_both_ways() {
        let told = resolve(&SettingsModel::default(), &[]).err().unwrap();
        for part in ["`endpoint`", "FAIRMAZON_ENDPOINT", "`token`", "FAIRMAZON_TOKEN"] {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let model = SettingsModel {
            token: given("t"),
            client_certificate: given(PEM),
            ..SettingsModel::default()
        };
        assert!(resolve(&model, &[ENDPOINT]).err().unwrap().contains("two credentials"));
        let env = [ENDPOINT, TOKEN, ("FAIRMAZON_CLIENT_KEY", "there.pem")];
        let told = resolve(&SettingsModel::default(), &env).err().unwrap();
        assert!(told.contains("two credentials"), "{told}");
        let half =
            SettingsModel { client_certificate: given("there.pem"), ..SettingsModel::default() };
        let told = resolve(&half, &[ENDPOINT]).err().unwrap();
        assert!(told.contains("`client_key` is not"), "{told}");
    }

    #[test]
    fn bad_forms_are_refused_with_their_place() {
        for bad in ["", "http://a", "broker", "https://", "https://a b", "https://a/path"] {
            let model = SettingsModel { endpoint: given(bad), ..SettingsModel::default() };
            let told = resolve(&model, &[TOKEN]).err().unwrap();
            assert!(told.contains("(at endpoint)"), "{bad}: {told}");
        }
        for bad in ["0", "-1", "a lot", "1e3"] {
            let model =
                SettingsModel { max_price_per_hour: given(bad), ..SettingsModel::default() };
            let told = resolve(&model, &[ENDPOINT, TOKEN]).err().unwrap();
            assert!(told.contains("(at max_price_per_hour)"), "{bad}: {told}");
        }
        let model = SettingsModel { ca_certificate: given("gone.pem"), ..SettingsModel::default() };
        let told = resolve(&model, &[ENDPOINT, TOKEN]).err().unwrap();
        assert!(told.contains("gone.pem") && told.contains("(at ca_certificate)"), "{told}");
    }

    #[test]
    fn default_labels_are_also_in_the_environment() {
        let labels_of = |model: &SettingsModel, text: &str| {
            let env = [ENDPOINT, TOKEN, ("FAIRMAZON_DEFAULT_LABELS", text)];
            resolve(model, &env).map(|settings| settings.default_labels.unwrap())
        };
        let of = |labels: &[(&str, &str)]| {
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let unset = SettingsModel::default();
        assert_eq!(labels_of(&unset, ""), Ok(BTreeMap::new()));
        // Only the first `=` divides, and a label may be empty.
        let read = labels_of(&unset, "team=web,a/b=c=d,empty=");
        assert_eq!(read, Ok(of(&[("team", "web"), ("a/b", "c=d"), ("empty", "")])));
        for (bad, part) in [
            ("team", "has no `=`"),
            ("team=web,", "has no `=`"),
            ("a=1,a=2", "in it twice"),
            ("a key=1", "(at default_labels[\"a key\"])"),
            ("=1", "(at default_labels[\"\"])"),
        ] {
            let told = labels_of(&unset, bad).err().unwrap();
            assert!(told.contains(part) && told.contains("default_labels"), "{bad}: {told}");
        }
        // The block wins as a whole, also where it has none.
        let block = BTreeMap::from([("env".to_owned(), given("test"))]);
        for (block, all) in [(block, of(&[("env", "test")])), (BTreeMap::new(), of(&[]))] {
            let model =
                SettingsModel { default_labels: Attr::Value(block), ..SettingsModel::default() };
            assert_eq!(labels_of(&model, "team=web"), Ok(all));
        }
    }

    #[test]
    fn what_is_unknown_is_no_mistake() {
        let model = SettingsModel {
            endpoint: Attr::Unknown,
            token: Attr::Unknown,
            default_labels: Attr::Unknown,
            ..SettingsModel::default()
        };
        let settings = resolve(&model, &[]).unwrap();
        assert!(settings.access.is_none() && settings.default_labels.is_none());
        let model = SettingsModel { token: Attr::Unknown, ..SettingsModel::default() };
        assert!(resolve(&model, &[ENDPOINT]).unwrap().access.is_none());
    }

    #[test]
    fn certificates_are_paths_or_text() {
        let model = SettingsModel {
            client_certificate: given(PEM),
            client_key: given("there.pem"),
            ..SettingsModel::default()
        };
        let settings = resolve(&model, &[ENDPOINT, TOKEN]).unwrap();
        assert_eq!(token_of(&settings), "a certificate");
    }
}
