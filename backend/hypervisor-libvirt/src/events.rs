//! libvirt's event loop, and domain events as hints. `unsafe`, because `virt` does not
//! wrap domain events.

#![expect(unsafe_code, reason = "virt 0.5 does not wrap domain events")]

use std::{
    ffi::{c_int, c_void},
    sync::OnceLock,
    thread,
};

use fairmazon_hypervisor::Hint;
use fairmazon_model::id::InstanceId;
use tokio::sync::broadcast;
use ulid::Ulid;
use virt::{connect::Connect, error::Error};
use virt_sys as sys;

use crate::LibvirtError;

/// Registers the event loop and runs it in a thread of its own, once for the process. Has to come
/// before the first connection.
pub(crate) fn start_loop() -> Result<(), LibvirtError> {
    static STARTED: OnceLock<Result<(), Error>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        // libvirt prints every error otherwise.
        virt::error::clear_error_callback();
        virt::event::event_register_default_impl()?;
        let run = || {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::error!(%error, "libvirt's event loop failed once");
                }
            }
        };
        thread::Builder::new()
            .name("libvirt-events".into())
            .spawn(run)
            .map(drop)
            .map_err(|_| Error::last_error())
    });
    started.clone().map_err(LibvirtError::Events)
}

/// A registration for the events of all domains of a connection; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    connection: Connect,
    callback: c_int,
}

impl Watch {
    /// Sends a hint for every event of a domain.
    pub(crate) fn start(
        connection: &Connect,
        hints: broadcast::Sender<Hint>,
    ) -> Result<Self, Error> {
        let opaque = Box::into_raw(Box::new(hints));
        let callback: unsafe extern "C" fn(
            sys::virConnectPtr,
            sys::virDomainPtr,
            c_int,
            c_int,
            *mut c_void,
        ) -> c_int = on_lifecycle;
        // SAFETY: libvirt's generic callback type stands for the type of each event id, and
        // `on_lifecycle` has the one of VIR_DOMAIN_EVENT_ID_LIFECYCLE.
        let generic = unsafe {
            std::mem::transmute::<
                unsafe extern "C" fn(
                    sys::virConnectPtr,
                    sys::virDomainPtr,
                    c_int,
                    c_int,
                    *mut c_void,
                ) -> c_int,
                unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void),
            >(callback)
        };
        // SAFETY: the connection is open, a null domain means all of them, and `opaque` stays
        // valid until libvirt calls `free_hints` with it, exactly once.
        let callback = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connection.as_ptr(),
                std::ptr::null_mut(),
                sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE as c_int,
                Some(generic),
                opaque.cast(),
                Some(free_hints),
            )
        };
        if callback < 0 {
            let error = Error::last_error();
            // SAFETY: libvirt took no ownership of `opaque`, which came from `Box::into_raw`.
            drop(unsafe { Box::from_raw(opaque) });
            return Err(error);
        }
        Ok(Self { connection: connection.clone(), callback })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the connection is still open, as this holds a reference to it, and the callback
        // was registered on it. A failure leaves the callback in place, which does no harm.
        unsafe {
            sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), self.callback);
        }
    }
}

/// Called by libvirt for each event of a domain.
unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _: c_int,
    _: c_int,
    opaque: *mut c_void,
) -> c_int {
    let mut uuid = [0_u8; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: libvirt gives a valid domain for the time of the call, and a UUID has as many bytes
    // as the buffer.
    let known = unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) } == 0;
    // SAFETY: `opaque` is what `Watch::start` registered, and lives until `free_hints`.
    let hints = unsafe { &*opaque.cast::<broadcast::Sender<Hint>>() };
    let instance = InstanceId::from_ulid(Ulid::from_bytes(uuid));
    // Nobody listening is no failure: a listener that comes later looks at all first.
    let _ = hints.send(if known { Hint::Machine(instance) } else { Hint::All });
    0
}

/// Called by libvirt when a registration has ended.
unsafe extern "C" fn free_hints(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Box::into_raw` in `Watch::start`; libvirt calls this once.
    drop(unsafe { Box::from_raw(opaque.cast::<broadcast::Sender<Hint>>()) });
}
