//! A provider whose things live in memory. What a thing is called decides what goes wrong.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tfplugin::{
    Action, Attr, Attribute, Change, ChangeKind, Context, DataSource, Diagnostic, Diagnostics,
    EphemeralResource, Function, FunctionError, IdentitySchema, ImportTarget, ListResource,
    ListSink, MoveSource, Offers, Opened, Planned, Private, Progress, Provider, Resource, Schema,
    Signature, StateSink, Type, Upgrader, View, async_trait,
    harness::Harness,
    schema::validators::{Validator, custom, length},
};
use tokio::sync::Notify;

/// The service behind the provider.
#[derive(Default)]
pub(crate) struct Service {
    things: Mutex<BTreeMap<String, Thing>>,
    /// Told when a create has begun to wait.
    pub(crate) waiting: Notify,
}

impl Service {
    pub(crate) fn things(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Thing>> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Thing {
    pub(crate) id: Attr<String>,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) size: u64,
    pub(crate) label: Attr<String>,
    pub(crate) token: Option<String>,
    pub(crate) password_wo: Option<String>,
    pub(crate) password_length: Attr<u64>,
}

pub(crate) struct Lab(pub(crate) Arc<Service>);

pub(crate) async fn harness() -> (Harness<Lab>, Arc<Service>) {
    let service = Arc::new(Service::default());
    let harness = Harness::new(Lab(Arc::clone(&service)));
    let warnings = harness.configure(serde_json::json!({})).await.expect("it can be configured");
    assert!(warnings.is_empty());
    (harness, service)
}

#[async_trait]
impl Provider for Lab {
    type Data = Arc<Service>;

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::string("endpoint").optional()).build()
    }

    fn offers(&self) -> Offers<Arc<Service>> {
        Offers::new()
            .resource(ThingResource)
            .data_source(Count)
            .function(Join)
            .ephemeral(Pass)
            .list(Things)
            .action(Poke)
    }

    async fn validate(&self, _: &Context<()>, config: View<'_>) -> Result<(), Diagnostics> {
        match config.get::<String>("endpoint")?.get() {
            Some(endpoint) if !endpoint.starts_with("https:") => {
                Err(Diagnostic::error("No TLS").at("endpoint").into())
            }
            _ => Ok(()),
        }
    }

    async fn configure(&self, cx: &Context<()>, _: View<'_>) -> Result<Arc<Service>, Diagnostics> {
        if !cx.terraform_version().starts_with("1.") {
            return Err(Diagnostic::error("Unknown client").into());
        }
        Ok(Arc::clone(&self.0))
    }
}

/// Waits for ever, and does not listen to whether it shall stop.
async fn hangs(cx: &Context<Arc<Service>>) -> Result<(), Diagnostics> {
    cx.data()?.waiting.notify_one();
    std::future::pending().await
}

/// A rule with a mistake in it.
fn unpuzzled() -> impl Validator {
    custom("a name", |value| {
        assert_ne!(value.as_str(), Some("puzzle"), "a mistake in a rule");
        Ok(())
    })
}

pub(crate) struct ThingResource;

#[async_trait]
impl Resource for ThingResource {
    type Data = Arc<Service>;
    type Model = Thing;

    fn name(&self) -> &'static str {
        "lab_thing"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .version(2)
            .attribute(Attribute::string("id").computed().use_state_for_unknown())
            .attribute(
                Attribute::string("name").required().validate(length(1..=20)).validate(unpuzzled()),
            )
            .attribute(Attribute::string("kind").default("plain").requires_replace_if(
                "it is of another kind",
                |change| {
                    let kind = change.planned.as_str();
                    assert_ne!(kind, Some("puzzle"), "a mistake in a rule");
                    true
                },
            ))
            .attribute(Attribute::integer("size").default(1))
            .attribute(Attribute::string("label").optional().computed())
            .attribute(Attribute::string("token").optional().sensitive())
            .attribute(Attribute::string("password_wo").optional().write_only())
            .attribute(Attribute::integer("password_length").computed().use_state_for_unknown())
            .build()
    }

    fn identity(&self) -> Option<IdentitySchema> {
        Some(IdentitySchema::new().required("id", Type::String, "The id."))
    }

    fn upgraders(&self) -> Vec<Upgrader> {
        let rename = |from: &'static str, to: &'static str| {
            move |mut state: serde_json::Value| {
                if let Some(members) = state.as_object_mut()
                    && let Some(value) = members.remove(from)
                {
                    members.insert(to.to_owned(), value);
                }
                Ok(state)
            }
        };
        vec![
            Upgrader::from_version(0, rename("title", "caption")),
            Upgrader::from_version(1, rename("caption", "name")),
        ]
    }

    fn plans_destroy(&self) -> bool {
        true
    }

    fn moves_state(&self) -> bool {
        true
    }

    async fn validate(
        &self,
        cx: &Context<Arc<Service>>,
        config: View<'_>,
    ) -> Result<(), Diagnostics> {
        if config.get::<String>("name")?.get().is_some_and(|name| name == "ugly") {
            cx.warn(Diagnostic::warning("An ugly name").at("name"));
        }
        Ok(())
    }

    async fn plan(
        &self,
        cx: &Context<Arc<Service>>,
        change: &mut Change<'_>,
    ) -> Result<(), Diagnostics> {
        if change.kind() == ChangeKind::Delete {
            let name = change.prior().get::<String>("name")?;
            if name.get().is_some_and(|name| name == "precious") {
                return Err(Diagnostics::error("Protected", "It is precious."));
            }
            cx.warn(Diagnostic::warning("It goes for good"));
            return Ok(());
        }
        let name = change.planned().get::<String>("name")?.known().unwrap_or_default();
        assert_ne!(name, "unplannable", "a mistake in a plan");
        if name == "ponders" {
            hangs(cx).await?;
        }
        change.private().set("planned", &true)?;
        if change.planned().at("label").is_unknown()
            && let Some(name) = change.planned().get::<String>("name")?.known()
        {
            change.set("label", &format!("the {name}"))?;
        }
        if change.planned().get::<String>("name")?.get().is_some_and(|name| name == "chooser") {
            change.set("size", &99_u64)?;
        }
        Ok(())
    }

    async fn create(
        &self,
        cx: &Context<Arc<Service>>,
        plan: Planned<'_, Thing>,
        state: &mut StateSink<'_, Thing>,
    ) -> Result<(), Diagnostics> {
        let service = cx.data()?;
        let name = plan.name.clone();
        let id = format!("thing-{}", service.things().len());
        let password = plan.configured::<String>("password_wo")?;
        let mut thing = Thing { id: Attr::Value(id.clone()), ..plan.model };
        if name == "refused" {
            return Err(Diagnostics::error("Unable to create", "There is no room."));
        }
        state.save(&thing)?;
        match name.as_str() {
            "fails" => return Err(Diagnostics::error("Unable to wait", "It broke on the way.")),
            "panics" => assert_ne!(name, "panics", "a mistake was made"),
            "leaks" => {
                let token = thing.token.unwrap_or_default();
                let text = format!("the service refused {token}");
                return Err(Diagnostics::error("Unable to log in", text));
            }
            "waits" => {
                service.waiting.notify_one();
                cx.unless_cancelled(std::future::pending::<()>()).await?;
            }
            "renamed" => thing.name = "else".to_owned(),
            "forgets" => return Ok(()),
            _ => {}
        }
        thing.password_length = Attr::Value(password.known().unwrap_or_default().len() as u64);
        state.private().set("revision", &1_u64)?;
        service.things().insert(id, thing.clone());
        state.save(&thing)
    }

    async fn read(
        &self,
        cx: &Context<Arc<Service>>,
        prior: Thing,
        state: &mut StateSink<'_, Thing>,
    ) -> Result<(), Diagnostics> {
        assert_ne!(prior.name, "unreadable", "a mistake in a look");
        if prior.name == "hides" {
            hangs(cx).await?;
        }
        let id = prior.id.known().unwrap_or_default();
        match cx.data()?.things().get(&id) {
            Some(thing) => state.save(thing)?,
            None => state.gone(),
        }
        Ok(())
    }

    async fn update(
        &self,
        cx: &Context<Arc<Service>>,
        _: Thing,
        plan: Planned<'_, Thing>,
        state: &mut StateSink<'_, Thing>,
    ) -> Result<(), Diagnostics> {
        if plan.size == 13 {
            return Err(Diagnostics::error("Unable to change", "Not thirteen."));
        }
        let revision = state.private().get::<u64>("revision").unwrap_or_default();
        state.private().set("revision", &(revision + 1))?;
        let thing = plan.model;
        cx.data()?.things().insert(thing.id.get().cloned().unwrap_or_default(), thing.clone());
        state.save(&thing)
    }

    async fn delete(
        &self,
        cx: &Context<Arc<Service>>,
        prior: Thing,
        _: &mut StateSink<'_, Thing>,
    ) -> Result<(), Diagnostics> {
        if prior.name == "sticky" {
            return Err(Diagnostics::error("Unable to delete", "It is stuck."));
        }
        cx.data()?.things().remove(&prior.id.known().unwrap_or_default());
        Ok(())
    }

    async fn import(
        &self,
        cx: &Context<Arc<Service>>,
        target: ImportTarget,
        state: &mut StateSink<'_, Thing>,
    ) -> Result<(), Diagnostics> {
        assert_ne!(target.text("id")?, "none", "a mistake in an import");
        if target.text("id")? == "far" {
            hangs(cx).await?;
        }
        if let Some(thing) = cx.data()?.things().get(target.text("id")?) {
            state.save(thing)?;
        }
        Ok(())
    }

    async fn move_state(
        &self,
        _: &Context<Arc<Service>>,
        source: MoveSource,
        state: &mut StateSink<'_, Thing>,
    ) -> Result<(), Diagnostics> {
        if source.type_name != "old_thing" {
            return Err(Diagnostics::error("Unable to move", "Only old things can be moved."));
        }
        if source.state["title"] == "lost" {
            return Ok(());
        }
        let text = |name: &str| source.state[name].as_str().unwrap_or_default().to_owned();
        state.save(&Thing {
            id: Attr::Value(text("id")),
            name: text("title"),
            kind: "plain".to_owned(),
            size: 1,
            label: Attr::Null,
            token: None,
            password_wo: None,
            password_length: Attr::Value(0),
        })
    }
}

struct Count;

#[derive(Serialize, Deserialize)]
struct CountModel {
    kind: Option<String>,
    total: Option<u64>,
}

#[async_trait]
impl DataSource for Count {
    type Data = Arc<Service>;
    type Model = CountModel;

    fn name(&self) -> &'static str {
        "lab_count"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .attribute(Attribute::string("kind").optional().validate(length(1..)))
            .attribute(Attribute::integer("total").computed())
            .build()
    }

    async fn read(
        &self,
        cx: &Context<Arc<Service>>,
        config: CountModel,
    ) -> Result<CountModel, Diagnostics> {
        let things = cx.data()?.things();
        let wanted = |thing: &&Thing| config.kind.as_ref().is_none_or(|kind| *kind == thing.kind);
        let total = things.values().filter(wanted).count() as u64;
        Ok(CountModel { total: Some(total), kind: config.kind })
    }
}

struct Join;

impl Function for Join {
    type Args = (String, Option<u64>, Vec<String>);
    type Output = String;

    fn name(&self) -> &'static str {
        "join"
    }

    fn signature(&self) -> Signature {
        Signature::returning(Type::String, "Joins texts.")
            .parameter("separator", Type::String, "What stands between them.")
            .nullable("limit", Type::Number, "How many there may be.")
            .variadic("texts", Type::String, "The texts.")
    }

    fn call(
        &self,
        (separator, limit, texts): (String, Option<u64>, Vec<String>),
    ) -> Result<String, FunctionError> {
        assert_ne!(separator, "panic", "a mistake was made");
        if limit.is_some_and(|limit| limit < texts.len() as u64) {
            return Err(FunctionError::argument(2, "There are too many."));
        }
        Ok(texts.join(&separator))
    }
}

struct Pass;

#[derive(Serialize, Deserialize)]
struct PassModel {
    purpose: String,
    secret: Option<String>,
}

#[async_trait]
impl EphemeralResource for Pass {
    type Data = Arc<Service>;
    type Model = PassModel;

    fn name(&self) -> &'static str {
        "lab_pass"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .attribute(Attribute::string("purpose").required())
            .attribute(Attribute::string("secret").computed().sensitive())
            .build()
    }

    async fn open(
        &self,
        _: &Context<Arc<Service>>,
        config: PassModel,
    ) -> Result<Opened<PassModel>, Diagnostics> {
        let mut private = Private::default();
        private.set("renewals", &0_u64)?;
        let model = PassModel { secret: Some("sesame".to_owned()), ..config };
        let renew_at = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        Ok(Opened { model, renew_at, private })
    }

    async fn renew(
        &self,
        _: &Context<Arc<Service>>,
        private: &mut Private,
    ) -> Result<Option<SystemTime>, Diagnostics> {
        let renewals = private.get::<u64>("renewals").unwrap_or_default() + 1;
        private.set("renewals", &renewals)?;
        Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60 * (renewals + 1))))
    }

    async fn close(&self, _: &Context<Arc<Service>>, private: &Private) -> Result<(), Diagnostics> {
        match private.get::<u64>("renewals") {
            Some(2) => Err(Diagnostics::error("Unable to close", "It was renewed twice.")),
            _ => Ok(()),
        }
    }
}

struct Things;

#[derive(Deserialize)]
struct ThingsConfig {
    kind: Option<String>,
}

#[async_trait]
impl ListResource for Things {
    type Data = Arc<Service>;
    type Config = ThingsConfig;
    type Model = Thing;

    fn name(&self) -> &'static str {
        "lab_thing"
    }

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::string("kind").optional()).build()
    }

    async fn list(
        &self,
        cx: &Context<Arc<Service>>,
        config: ThingsConfig,
        found: &mut ListSink<Thing>,
    ) -> Result<(), Diagnostics> {
        if config.kind.as_deref() == Some("broken") {
            return Err(Diagnostics::error("Unable to list", "It is broken."));
        }
        let things: Vec<Thing> = cx.data()?.things().values().cloned().collect();
        let wanted = |thing: &&Thing| config.kind.as_ref().is_none_or(|kind| *kind == thing.kind);
        for thing in things.iter().filter(wanted) {
            if !found.put(&*thing.name, thing).await? {
                break;
            }
        }
        Ok(())
    }
}

struct Poke;

#[derive(Deserialize)]
struct PokeConfig {
    what: String,
}

#[async_trait]
impl Action for Poke {
    type Data = Arc<Service>;
    type Config = PokeConfig;

    fn name(&self) -> &'static str {
        "lab_poke"
    }

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::string("what").required()).build()
    }

    async fn plan(&self, _: &Context<Arc<Service>>, config: View<'_>) -> Result<(), Diagnostics> {
        match config.get::<String>("what")?.get().map(String::as_str) {
            Some("bear") => Err(Diagnostic::error("Not the bear").at("what").into()),
            _ => Ok(()),
        }
    }

    async fn invoke(
        &self,
        _: &Context<Arc<Service>>,
        config: PokeConfig,
        progress: &Progress,
    ) -> Result<(), Diagnostics> {
        progress.say(format!("poking the {}", config.what));
        assert_ne!(config.what, "void", "it poked back");
        progress.say("poked");
        Ok(())
    }
}
