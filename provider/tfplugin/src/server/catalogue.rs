//! Everything the provider offers, by name, with what follows from it: made once.

use std::collections::BTreeMap;

use crate::{
    Diagnostic, Diagnostics, IdentitySchema, Offers, Provider,
    action::AnyAction,
    data_source::AnyDataSource,
    ephemeral::AnyEphemeral,
    function::{AnyFunction, Signature},
    list::AnyList,
    resource::{AnyResource, Upgrader},
    schema::Schema,
};

/// A handler with its schema.
pub(super) struct Entry<H: ?Sized> {
    pub(super) handler: Box<H>,
    pub(super) schema: Schema,
}

/// A managed resource with all that it declares.
pub(super) struct ResourceEntry<D> {
    pub(super) handler: Box<dyn AnyResource<D>>,
    pub(super) schema: Schema,
    pub(super) identity: Option<IdentitySchema>,
    pub(super) upgraders: Vec<Upgrader>,
    pub(super) identity_upgraders: Vec<Upgrader>,
    pub(super) plans_destroy: bool,
    pub(super) moves_state: bool,
}

/// A function with its signature.
pub(super) struct FunctionEntry {
    pub(super) handler: Box<dyn AnyFunction>,
    pub(super) signature: Signature,
}

type Named<T> = BTreeMap<&'static str, T>;

/// Everything that is offered.
pub(super) struct Catalogue<D> {
    pub(super) provider: Schema,
    pub(super) meta: Option<Schema>,
    pub(super) resources: Named<ResourceEntry<D>>,
    pub(super) data_sources: Named<Entry<dyn AnyDataSource<D>>>,
    pub(super) functions: Named<FunctionEntry>,
    pub(super) ephemerals: Named<Entry<dyn AnyEphemeral<D>>>,
    pub(super) lists: Named<Entry<dyn AnyList<D>>>,
    pub(super) actions: Named<Entry<dyn AnyAction<D>>>,
    /// What is wrong with the declarations; told with the schema.
    pub(super) faults: Diagnostics,
}

impl<D: Send + Sync + 'static> Catalogue<D> {
    /// Asks the provider for everything.
    pub(super) fn of<P: Provider<Data = D>>(provider: &P) -> Self {
        let offers: Offers<D> = provider.offers();
        let mut faults = Diagnostics::new();
        let mut catalogue = Self {
            provider: provider.schema(),
            meta: provider.meta_schema(),
            resources: BTreeMap::new(),
            data_sources: BTreeMap::new(),
            functions: BTreeMap::new(),
            ephemerals: BTreeMap::new(),
            lists: BTreeMap::new(),
            actions: BTreeMap::new(),
            faults: Diagnostics::new(),
        };
        for handler in offers.resources {
            let entry = ResourceEntry::of(handler);
            add(&mut catalogue.resources, entry.handler.name(), entry, "resource", &mut faults);
        }
        for handler in offers.data_sources {
            let (name, schema) = (handler.name(), handler.schema());
            let entry = Entry { handler, schema };
            add(&mut catalogue.data_sources, name, entry, "data source", &mut faults);
        }
        for handler in offers.functions {
            let (name, signature) = (handler.name(), handler.signature());
            let entry = FunctionEntry { handler, signature };
            add(&mut catalogue.functions, name, entry, "function", &mut faults);
        }
        for handler in offers.ephemerals {
            let (name, schema) = (handler.name(), handler.schema());
            let entry = Entry { handler, schema };
            add(&mut catalogue.ephemerals, name, entry, "ephemeral resource", &mut faults);
        }
        for handler in offers.lists {
            let (name, schema) = (handler.name(), handler.schema());
            let entry = Entry { handler, schema };
            add(&mut catalogue.lists, name, entry, "list resource", &mut faults);
        }
        for handler in offers.actions {
            let (name, schema) = (handler.name(), handler.schema());
            let entry = Entry { handler, schema };
            add(&mut catalogue.actions, name, entry, "action", &mut faults);
        }
        catalogue.check_lists(&mut faults);
        catalogue.check_schemas(&mut faults);
        catalogue.faults = faults;
        catalogue
    }

    fn check_lists(&self, faults: &mut Diagnostics) {
        for name in self.lists.keys() {
            let listed = self.resources.get(name);
            if listed.is_none_or(|resource| resource.identity.is_none()) {
                faults.push(fault(format!(
                    "The list resource {name} needs a managed resource of the same name that \
                     has an identity."
                )));
            }
        }
    }

    fn check_schemas(&self, faults: &mut Diagnostics) {
        let provider = [("provider", &self.provider)].into_iter();
        let meta = self.meta.iter().map(|schema| ("provider_meta", schema));
        let resources = self.resources.iter().map(|(name, entry)| (*name, &entry.schema));
        let others = self.data_sources.iter().map(|(name, entry)| (*name, &entry.schema));
        let ephemerals = self.ephemerals.iter().map(|(name, entry)| (*name, &entry.schema));
        let lists = self.lists.iter().map(|(name, entry)| (*name, &entry.schema));
        let actions = self.actions.iter().map(|(name, entry)| (*name, &entry.schema));
        let all = provider.chain(meta).chain(resources).chain(others);
        for (name, schema) in all.chain(ephemerals).chain(lists).chain(actions) {
            if let Err(errors) = schema.check() {
                faults.extend(errors.iter().map(|error| fault(format!("In {name}: {error}."))));
            }
        }
    }
}

impl<D> ResourceEntry<D> {
    fn of(handler: Box<dyn AnyResource<D>>) -> Self {
        Self {
            schema: handler.schema(),
            identity: handler.identity(),
            upgraders: handler.upgraders(),
            identity_upgraders: handler.identity_upgraders(),
            plans_destroy: handler.plans_destroy(),
            moves_state: handler.moves_state(),
            handler,
        }
    }
}

fn add<T>(into: &mut Named<T>, name: &'static str, entry: T, kind: &str, faults: &mut Diagnostics) {
    if into.insert(name, entry).is_some() {
        faults.push(fault(format!("The {kind} {name} is offered twice.")));
    }
}

fn fault(detail: String) -> Diagnostic {
    Diagnostic::error("The provider is not sound").detail(detail)
}

/// Finds an entry, or says that there is none.
pub(super) fn find<'a, T>(
    among: &'a Named<T>,
    name: &str,
    kind: &str,
) -> Result<&'a T, Diagnostics> {
    among.get(name).ok_or_else(|| {
        Diagnostics::error(
            format!("Unknown {kind}"),
            format!("This version of the provider offers no {kind} {name:?}."),
        )
    })
}
