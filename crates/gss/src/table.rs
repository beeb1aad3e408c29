//! The library's functions and structures, as its C header has them (gssapi.h, gssapi_ext.h, gssapi_krb5.h of MIT
//! Kerberos 1.19 and later; RFC 2744, appendix A).

#![allow(unsafe_code, reason = "functions of a C library")]

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

pub(crate) type Major = u32;
/// A pointer to something of the library's own.
pub(crate) type Handle = *mut c_void;

#[repr(C)]
pub(crate) struct Buffer {
    pub length: usize,
    pub value: *mut c_void,
}

#[repr(C)]
pub(crate) struct Oid {
    pub length: u32,
    pub elements: *mut c_void,
}

#[repr(C)]
pub(crate) struct OidSet {
    pub count: usize,
    pub elements: *mut Oid,
}

#[repr(C)]
pub(crate) struct BufferSet {
    pub count: usize,
    pub elements: *mut Buffer,
}

#[repr(C)]
pub(crate) struct Bindings {
    pub initiator_type: u32,
    pub initiator: Buffer,
    pub acceptor_type: u32,
    pub acceptor: Buffer,
    pub application: Buffer,
}

#[repr(C)]
pub(crate) struct KeyValue {
    pub key: *const c_char,
    pub value: *const c_char,
}

#[repr(C)]
pub(crate) struct Store {
    pub count: u32,
    pub elements: *mut KeyValue,
}

macro_rules! table {
    ($($name:ident ( $($argument:ty),* $(,)? ) -> $result:ty;)*) => {
        /// The functions that are used.
        pub(crate) struct Table {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Table {
            /// Loads a library that is never unloaded.
            pub fn load(path: &Path) -> Result<Self, libloading::Error> {
                // SAFETY: loading runs the library's initialisers. The caller has seen that the file is root's alone, as is
                // what the linker takes besides: this is the system's Kerberos, made to be loaded.
                let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL)? };
                let table = Self {
                    $(
                        // SAFETY: the type is that of the function in the library's header.
                        $name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes())? },
                    )*
                };
                std::mem::forget(library);
                Ok(table)
            }
        }
    };
}

table! {
    gss_import_name(*mut u32, *const Buffer, *const Oid, *mut Handle) -> Major;
    gss_display_name(*mut u32, Handle, *mut Buffer, *mut *mut Oid) -> Major;
    gss_get_name_attribute(
        *mut u32, Handle, *const Buffer, *mut c_int, *mut c_int, *mut Buffer, *mut Buffer, *mut c_int,
    ) -> Major;
    gss_release_name(*mut u32, *mut Handle) -> Major;
    gss_acquire_cred_from(
        *mut u32, Handle, u32, *const OidSet, c_int, *const Store, *mut Handle, *mut *mut OidSet, *mut u32,
    ) -> Major;
    gss_release_cred(*mut u32, *mut Handle) -> Major;
    gss_krb5_set_allowable_enctypes(*mut u32, Handle, u32, *const i32) -> Major;
    gss_init_sec_context(
        *mut u32, Handle, *mut Handle, Handle, *const Oid, u32, u32, *const Bindings, *const Buffer, *mut *mut Oid,
        *mut Buffer, *mut u32, *mut u32,
    ) -> Major;
    gss_accept_sec_context(
        *mut u32, *mut Handle, Handle, *const Buffer, *const Bindings, *mut Handle, *mut *mut Oid, *mut Buffer, *mut u32,
        *mut u32, *mut Handle,
    ) -> Major;
    gss_inquire_context(
        *mut u32, Handle, *mut Handle, *mut Handle, *mut u32, *mut *mut Oid, *mut u32, *mut c_int, *mut c_int,
    ) -> Major;
    gss_inquire_sec_context_by_oid(*mut u32, Handle, *const Oid, *mut *mut BufferSet) -> Major;
    gss_delete_sec_context(*mut u32, *mut Handle, *mut Buffer) -> Major;
    gss_wrap(*mut u32, Handle, c_int, u32, *const Buffer, *mut c_int, *mut Buffer) -> Major;
    gss_unwrap(*mut u32, Handle, *const Buffer, *mut Buffer, *mut c_int, *mut u32) -> Major;
    gss_release_buffer(*mut u32, *mut Buffer) -> Major;
    gss_release_buffer_set(*mut u32, *mut *mut BufferSet) -> Major;
    gss_display_status(*mut u32, u32, c_int, *const Oid, *mut u32, *mut Buffer) -> Major;
    krb5_init_context(*mut Handle) -> i32;
    krb5_free_context(Handle) -> ();
    krb5_cc_resolve(Handle, *const c_char, *mut Handle) -> i32;
    krb5_cc_destroy(Handle, Handle) -> i32;
}
