//! The one function that a provider's `main` calls.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use futures::future::BoxFuture;

use crate::{
    Provider,
    diagnostics::with_causes,
    log,
    server::Server,
    transport::{self, Mode, RunError, Running},
};

/// Serves the provider to the client that started this process, until it is done.
///
/// `address` is the provider's address in the registry, `registry.terraform.io/example/example`;
/// it is told to whoever starts the plugin by hand with `--debug`.
///
/// ```no_run
/// # use tfplugin::{Context, Diagnostics, Offers, Provider, View, async_trait, schema::Schema};
/// # struct Example;
/// # #[async_trait]
/// # impl Provider for Example {
/// #     type Data = ();
/// #     fn schema(&self) -> Schema { Schema::builder().build() }
/// #     fn offers(&self) -> Offers<()> { Offers::new() }
/// #     async fn configure(&self, _: &Context<()>, _: View<'_>) -> Result<(), Diagnostics> { Ok(()) }
/// # }
/// fn main() -> std::process::ExitCode {
///     tfplugin::serve(Example, "registry.terraform.io/example/example")
/// }
/// ```
pub fn serve<P: Provider>(provider: P, address: &str) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let mode = match mode(std::env::args().skip(1), address) {
        Ok(mode) => mode,
        Err(unknown) => return fail(&format!("{unknown:?} is no option of a plugin.")),
    };
    log::start(log::level(env));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("The runtime could not be started: {error}.")),
    };
    let server = Server::new(provider);
    let ending = server.clone();
    let on_end =
        Box::new(move || Box::pin(async move { ending.close().await }) as BoxFuture<'_, _>);
    let running = Running { provider: server, on_end };
    let done: Result<(), RunError> =
        runtime.block_on(Box::pin(transport::run(&mode, env, running)));
    // What did not end in time must not hold up the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&with_causes(&error)),
    }
}

fn mode(args: impl IntoIterator<Item = String>, address: &str) -> Result<Mode, String> {
    let mut mode = Mode::Client;
    for argument in args {
        match argument.as_str() {
            "--debug" | "-debug" => mode = Mode::Debug(address.to_owned()),
            _ => return Err(argument),
        }
    }
    Ok(mode)
}

fn fail(reason: &str) -> ExitCode {
    // Whoever does not listen to stderr still sees the exit status.
    let _ = writeln!(io::stderr(), "{reason}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debug_is_an_option() {
        let read = |args: &[&str]| mode(args.iter().map(ToString::to_string), "a/b/c");
        assert_eq!(read(&[]), Ok(Mode::Client));
        assert_eq!(read(&["--debug"]), Ok(Mode::Debug("a/b/c".to_owned())));
        assert_eq!(read(&["--verbose"]), Err("--verbose".to_owned()));
    }
}
