//! One safe call for each function that is used. What the library hands out is owned here, and given back once.

#![allow(unsafe_code, reason = "calls into a C library")]

use std::ffi::{CString, c_int};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroize as _;

use crate::Enctype;
use crate::table::{Bindings, Buffer, BufferSet, Handle, KeyValue, Major, Oid, OidSet, Store, Table};

/// 1.2.840.113554.1.2.2: Kerberos v5 (RFC 4121, section 4.1).
pub(crate) const KRB5: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02";
/// `GSS_KRB5_NT_PRINCIPAL_NAME` (RFC 1964, section 2.1.1): a principal as it is, with its realm, which nothing canonicalises.
const PRINCIPAL: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01";
/// By which services a ticket came, in its PAC (MS-PAC, section 2.9).
const DELEGATION: &[u8] = b"urn:mspac:delegation-info";
/// `GSS_C_INQ_SSPI_SESSION_KEY`.
const SESSION_KEY: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x05\x05";
/// What the second buffer of its answer begins with; the encryption type follows.
const SESSION_KEY_ENCTYPE: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x04";

/// `GSS_C_INITIATE`, `GSS_C_ACCEPT`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Initiate = 1,
    Accept = 2,
}

/// What a failed call is known by, whatever its words. The numbers are those of RFC 4120, section 7.5.9, and of MIT
/// Kerberos above 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The clocks are too far apart.
    Skew,
    /// No KDC answers.
    KdcUnreachable,
    /// The KDC does not know the principal that this end has.
    UnknownClient,
    /// The KDC does not know the principal of the other end.
    UnknownService,
    /// Several accounts at the KDC have that principal.
    Doubled,
    /// The KDC does not give tickets to this principal: it is disabled, locked or expired.
    Disabled,
    /// The key in the keytab is not the principal's.
    WrongKey,
    /// The keytab has no key that fits.
    NoKey,
    /// A ticket that has ended.
    Expired,
    /// An authenticator that came before.
    Replay,
    /// The two ends, or the KDC, have no encryption type in common.
    Enctype,
    /// The token is bound to another channel.
    Bindings,
    /// A token that is none, was changed, or does not belong here.
    Token,
    /// Anything else.
    Other,
}

/// The first of the numbers of Kerberos v5 (krb5.h: `ERROR_TABLE_BASE_krb5`).
const BASE: i64 = -1_765_328_384;

const CALLING_OR_ROUTINE: Major = 0xffff_0000;
const BAD_BINDINGS: Major = 4 << 16;
const DEFECTIVE_TOKEN: Major = 9 << 16;
const BAD_SIG: Major = 6 << 16;
const UNAVAILABLE: Major = 16 << 16;

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failed {
    /// What it is known by.
    pub status: Status,
    /// What the library says.
    pub text: String,
}

impl Failed {
    pub(crate) fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

fn status(major: Major, minor: u32) -> Status {
    match i64::from(minor.cast_signed()) - BASE {
        1 | 2 | 18 | 23 => Status::Disabled,
        6 => Status::UnknownClient,
        7 => Status::UnknownService,
        8 => Status::Doubled,
        14 | 150 | 152 | 236 | 237 => Status::Enctype,
        24 | 31 => Status::WrongKey,
        32 => Status::Expired,
        34 => Status::Replay,
        37 | 148 => Status::Skew,
        44 | 45 | 181 | 230 => Status::NoKey,
        154 | 156 | 220 => Status::KdcUnreachable,
        _ => match major & CALLING_OR_ROUTINE {
            BAD_BINDINGS => Status::Bindings,
            DEFECTIVE_TOKEN | BAD_SIG => Status::Token,
            _ => Status::Other,
        },
    }
}

pub(crate) fn oid(bytes: &'static [u8]) -> Oid {
    // Twenty bytes at most; the library only reads them.
    Oid { length: u32::try_from(bytes.len()).unwrap_or(0), elements: bytes.as_ptr().cast_mut().cast() }
}

fn input(bytes: &[u8]) -> Buffer {
    Buffer { length: bytes.len(), value: bytes.as_ptr().cast_mut().cast() }
}

const EMPTY: Buffer = Buffer { length: 0, value: null_mut() };

/// What the library has allocated. Wiped before it is given back: it may be what was decrypted.
pub(crate) struct Output {
    table: Arc<Table>,
    buffer: Buffer,
}

impl Output {
    fn new(table: &Arc<Table>) -> Self {
        Self { table: Arc::clone(table), buffer: EMPTY }
    }

    pub fn bytes(&self) -> &[u8] {
        bytes(&self.buffer)
    }
}

/// A buffer that the library has filled, or that is empty.
fn bytes(buffer: &Buffer) -> &[u8] {
    if buffer.value.is_null() {
        return &[];
    }
    // SAFETY: the library said that so many bytes are there, and they stay until it gets them back, which the borrow
    // forbids meanwhile.
    unsafe { std::slice::from_raw_parts(buffer.value.cast(), buffer.length) }
}

fn wipe(buffer: &mut Buffer) {
    if !buffer.value.is_null() {
        // SAFETY: as in `bytes`; the exclusive borrow says that nobody else looks at them.
        unsafe { std::slice::from_raw_parts_mut(buffer.value.cast::<u8>(), buffer.length) }.zeroize();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        wipe(&mut self.buffer);
        let mut minor = 0;
        // SAFETY: the buffer is the library's own, or empty; it is not used again.
        unsafe { (self.table.gss_release_buffer)(&raw mut minor, &raw mut self.buffer) };
    }
}

/// The most characters of what the library says.
const TEXT: usize = 300;

/// A call's result, in words when it failed.
fn done(table: &Arc<Table>, major: Major, minor: u32) -> Result<Major, Failed> {
    if major & CALLING_OR_ROUTINE == 0 {
        return Ok(major);
    }
    // It calls wrong bindings a success of the mechanism.
    let known = |text: &String| !text.is_empty() && text != "Success";
    let mechanism = (minor != 0).then(|| said(table, minor, 2)).filter(known);
    Err(Failed { status: status(major, minor), text: mechanism.unwrap_or_else(|| said(table, major, 1)) })
}

/// The words for a code: of GSSAPI (1) or of the mechanism (2).
fn said(table: &Arc<Table>, code: u32, kind: c_int) -> String {
    let (mechanism, mut more, mut texts) = (oid(KRB5), 0, Vec::new());
    for _ in 0..8 {
        let (mut minor, mut text) = (0, Output::new(table));
        // SAFETY: every pointer is to a value of this frame that outlives the call; the text is the library's.
        let major = unsafe {
            (table.gss_display_status)(
                &raw mut minor,
                code,
                kind,
                &raw const mechanism,
                &raw mut more,
                &raw mut text.buffer,
            )
        };
        if major & CALLING_OR_ROUTINE != 0 {
            break;
        }
        texts.push(String::from_utf8_lossy(text.bytes()).into_owned());
        if more == 0 {
            break;
        }
    }
    // Names that a stranger has written may be in them.
    texts.join("; ").chars().take(TEXT).collect()
}

/// A principal's name, as the library holds it.
pub(crate) struct Name {
    table: Arc<Table>,
    handle: Handle,
}

// SAFETY: a name belongs to no thread; it is only read, and given back once.
unsafe impl Send for Name {}

impl Name {
    pub fn new(table: &Arc<Table>, principal: &str) -> Result<Self, Failed> {
        let (text, kind) = (input(principal.as_bytes()), oid(PRINCIPAL));
        let (mut minor, mut name) = (0, Self { table: Arc::clone(table), handle: null_mut() });
        // SAFETY: every pointer is to a value that outlives the call; the name is the library's.
        let major =
            unsafe { (table.gss_import_name)(&raw mut minor, &raw const text, &raw const kind, &raw mut name.handle) };
        done(table, major, minor)?;
        Ok(name)
    }

    /// Its text, when it is a Kerberos principal.
    pub fn text(&self) -> Result<String, Failed> {
        let (mut minor, mut text, mut kind) = (0, Output::new(&self.table), null_mut());
        // SAFETY: the handle is a name's; every pointer is to a value that outlives the call.
        let major =
            unsafe { (self.table.gss_display_name)(&raw mut minor, self.handle, &raw mut text.buffer, &raw mut kind) };
        done(&self.table, major, minor)?;
        // SAFETY: the library gives a static object identifier, or none.
        if !unsafe { is(kind, PRINCIPAL) } {
            return Err(Failed::new(Status::Other, "a name that is no Kerberos principal"));
        }
        let text = std::str::from_utf8(text.bytes());
        text.map(str::to_owned).map_err(|_| Failed::new(Status::Other, "a principal that is no text"))
    }

    /// Whether its ticket says that services have got it in this name (RFC 6680, section 7.4); one that cannot be verified
    /// says nothing.
    fn is_delegated(&self) -> Result<bool, Failed> {
        let (wanted, mut minor, mut more) = (input(DELEGATION), 0, -1);
        let (mut authenticated, mut complete) = (0, 0);
        let [mut value, mut shown] = [(); 2].map(|()| Output::new(&self.table));
        // SAFETY: the handle is a name's; every pointer is to a value that outlives the call.
        let major = unsafe {
            (self.table.gss_get_name_attribute)(
                &raw mut minor,
                self.handle,
                &raw const wanted,
                &raw mut authenticated,
                &raw mut complete,
                &raw mut value.buffer,
                &raw mut shown.buffer,
                &raw mut more,
            )
        };
        if major & CALLING_OR_ROUTINE == UNAVAILABLE {
            return Ok(false);
        }
        done(&self.table, major, minor)?;
        Ok(true)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let mut minor = 0;
        if !self.handle.is_null() {
            // SAFETY: the handle is a name's, and not used again.
            unsafe { (self.table.gss_release_name)(&raw mut minor, &raw mut self.handle) };
        }
    }
}

/// Whether an object identifier of the library is this one.
///
/// # Safety
/// It is null, or points to one that is there.
unsafe fn is(given: *const Oid, wanted: &[u8]) -> bool {
    // SAFETY: by the contract.
    let Some(given) = (unsafe { given.as_ref() }) else { return false };
    let length = usize::try_from(given.length).unwrap_or(0);
    if given.elements.is_null() || length != wanted.len() {
        return false;
    }
    // SAFETY: the library says that so many bytes are there.
    (unsafe { std::slice::from_raw_parts(given.elements.cast::<u8>(), length) }) == wanted
}

/// A credential. The library locks it for each call: it may be used by many threads.
pub(crate) struct Credential {
    table: Arc<Table>,
    handle: Handle,
    cache: Option<CString>,
}

// SAFETY: a credential handle of MIT Kerberos is locked inside of every call that takes it (krb5_gss_cred_id_rec.lock), so
// that it can be used from, and dropped on, any thread.
unsafe impl Send for Credential {}
// SAFETY: as above.
unsafe impl Sync for Credential {}

impl Credential {
    /// By keytab. To initiate, tickets are kept in memory, in a cache of this credential's own; to accept, what was seen is
    /// kept in the file `replays`.
    pub fn new(table: &Arc<Table>, usage: Usage, principal: &str, keytab: &str, replays: &str) -> Result<Self, Failed> {
        static CACHES: AtomicU64 = AtomicU64::new(0);
        let name = Name::new(table, principal)?;
        let text = |text: String| CString::new(text).map_err(|_| Failed::new(Status::Other, "a path with a zero byte"));
        let cache = (usage == Usage::Initiate)
            .then(|| text(format!("MEMORY:wardline-{}", CACHES.fetch_add(1, Ordering::Relaxed))))
            .transpose()?;
        let file = text(format!("FILE:{keytab}"))?;
        let replays = text(format!("file2:{replays}"))?;
        let mut elements = match &cache {
            Some(cache) => [(c"client_keytab", &file), (c"ccache", cache)],
            None => [(c"keytab", &file), (c"rcache", &replays)],
        }
        .map(|(key, value)| KeyValue { key: key.as_ptr(), value: value.as_ptr() });
        let store = Store { count: 2, elements: elements.as_mut_ptr() };
        let mut mechanism = oid(KRB5);
        let mechanisms = OidSet { count: 1, elements: &raw mut mechanism };
        let mut made = Self { table: Arc::clone(table), handle: null_mut(), cache };
        let mut minor = 0;
        // SAFETY: every pointer is to a value that outlives the call, or null where the header allows it; the texts end with
        // a zero byte. The credential is the library's.
        let major = unsafe {
            (table.gss_acquire_cred_from)(
                &raw mut minor,
                name.handle,
                u32::MAX,
                &raw const mechanisms,
                usage as c_int,
                &raw const store,
                &raw mut made.handle,
                null_mut(),
                null_mut(),
            )
        };
        done(table, major, minor)?;
        Ok(made)
    }

    /// Asks for tickets with session keys of these encryption types only, the first of them before the others.
    pub fn allow(&self, enctypes: &[Enctype]) -> Result<(), Failed> {
        let numbers: Vec<i32> = enctypes.iter().map(|enctype| enctype.0).collect();
        let (mut minor, count) = (0, u32::try_from(numbers.len()).unwrap_or(0));
        // SAFETY: the handle is a credential's; so many numbers are there.
        let major = unsafe {
            (self.table.gss_krb5_set_allowable_enctypes)(&raw mut minor, self.handle, count, numbers.as_ptr())
        };
        done(&self.table, major, minor).map(|_| ())
    }
}

impl Drop for Credential {
    fn drop(&mut self) {
        let mut minor = 0;
        if !self.handle.is_null() {
            // SAFETY: the handle is a credential's, and not used again.
            unsafe { (self.table.gss_release_cred)(&raw mut minor, &raw mut self.handle) };
        }
        if let Some(cache) = &self.cache {
            destroy(&self.table, cache);
        }
    }
}

/// Wipes a cache in memory, with the tickets and keys in it.
fn destroy(table: &Table, cache: &CString) {
    let (mut context, mut handle) = (null_mut(), null_mut());
    // SAFETY: makes a context of the library's own.
    if unsafe { (table.krb5_init_context)(&raw mut context) } != 0 {
        return;
    }
    // SAFETY: the context was made above; the name ends with a zero byte.
    if unsafe { (table.krb5_cc_resolve)(context, cache.as_ptr(), &raw mut handle) } == 0 {
        // SAFETY: both were made above; the cache is not used again.
        unsafe { (table.krb5_cc_destroy)(context, handle) };
    }
    // SAFETY: the context was made above, and is not used again.
    unsafe { (table.krb5_free_context)(context) };
}

/// A security context, perhaps not finished.
pub(crate) struct Raw {
    table: Arc<Table>,
    handle: Handle,
}

// SAFETY: a context of MIT Kerberos belongs to no thread; it must only not be used by two at once, which every method's
// exclusive borrow forbids.
unsafe impl Send for Raw {}

/// What a step of setting up gives.
pub(crate) struct Step {
    pub token: Output,
    /// `GSS_S_CONTINUE_NEEDED` and the supplementary bits.
    pub major: Major,
    pub flags: u32,
}

/// What the library says of a context.
pub(crate) struct Inquiry {
    pub initiator: String,
    pub acceptor: String,
    /// Seconds that are left.
    pub lifetime: u32,
    /// Whether services have got the initiator's ticket in its name.
    pub is_delegated: bool,
}

/// Channel bindings that are only application data (RFC 2743, section 1.1.6).
fn bindings(data: &[u8]) -> Bindings {
    Bindings { initiator_type: 0, initiator: EMPTY, acceptor_type: 0, acceptor: EMPTY, application: input(data) }
}

impl Raw {
    pub fn new(table: &Arc<Table>) -> Self {
        Self { table: Arc::clone(table), handle: null_mut() }
    }

    pub fn initiate(
        &mut self,
        credential: &Credential,
        target: &Name,
        flags: u32,
        binding: &[u8],
        token: &[u8],
    ) -> Result<Step, Failed> {
        let (mechanism, bound, given) = (oid(KRB5), bindings(binding), input(token));
        let mut step = Step { token: Output::new(&self.table), major: 0, flags: 0 };
        let mut minor = 0;
        // SAFETY: the handles are a credential's, a name's, and null or this context's; every pointer is to a value that
        // outlives the call, or null where the header allows it.
        step.major = unsafe {
            (self.table.gss_init_sec_context)(
                &raw mut minor,
                credential.handle,
                &raw mut self.handle,
                target.handle,
                &raw const mechanism,
                flags,
                0,
                &raw const bound,
                &raw const given,
                null_mut(),
                &raw mut step.token.buffer,
                &raw mut step.flags,
                null_mut(),
            )
        };
        done(&self.table, step.major, minor)?;
        Ok(step)
    }

    pub fn accept(&mut self, credential: &Credential, binding: &[u8], token: &[u8]) -> Result<Step, Failed> {
        let (bound, given, mut mechanism) = (bindings(binding), input(token), null_mut());
        let mut step = Step { token: Output::new(&self.table), major: 0, flags: 0 };
        let mut minor = 0;
        // SAFETY: the handles are a credential's, and null or this context's; every pointer is to a value that outlives the
        // call, or null where the header allows it.
        step.major = unsafe {
            (self.table.gss_accept_sec_context)(
                &raw mut minor,
                &raw mut self.handle,
                credential.handle,
                &raw const given,
                &raw const bound,
                null_mut(),
                &raw mut mechanism,
                &raw mut step.token.buffer,
                &raw mut step.flags,
                null_mut(),
                null_mut(),
            )
        };
        done(&self.table, step.major, minor)?;
        // SAFETY: the library gives a static object identifier, or none.
        if !unsafe { is(mechanism, KRB5) } {
            return Err(Failed::new(Status::Token, "another mechanism than Kerberos v5"));
        }
        Ok(step)
    }

    pub fn inquire(&mut self) -> Result<Inquiry, Failed> {
        let table = &self.table;
        let mut names = [(); 2].map(|()| Name { table: Arc::clone(table), handle: null_mut() });
        let [source, target] = &mut names;
        let (mut minor, mut lifetime) = (0, 0);
        // SAFETY: the handle is this context's; every pointer is to a value that outlives the call, or null where the header
        // allows it. The names are the library's.
        let major = unsafe {
            (table.gss_inquire_context)(
                &raw mut minor,
                self.handle,
                &raw mut source.handle,
                &raw mut target.handle,
                &raw mut lifetime,
                null_mut(),
                null_mut(),
                null_mut(),
                null_mut(),
            )
        };
        done(table, major, minor)?;
        let (initiator, acceptor, is_delegated) = (source.text()?, target.text()?, source.is_delegated()?);
        Ok(Inquiry { initiator, acceptor, lifetime, is_delegated })
    }

    /// The encryption type of the key under which messages are wrapped. The key itself is wiped unseen.
    pub fn enctype(&mut self) -> Result<Enctype, Failed> {
        let (wanted, mut minor, mut set) = (oid(SESSION_KEY), 0, null_mut::<BufferSet>());
        // SAFETY: the handle is this context's; every pointer is to a value that outlives the call. The set is the library's.
        let major = unsafe {
            (self.table.gss_inquire_sec_context_by_oid)(&raw mut minor, self.handle, &raw const wanted, &raw mut set)
        };
        done(&self.table, major, minor)?;
        // SAFETY: the library gives a set, or null; nobody else has it.
        let buffers = unsafe { set.as_mut() }.filter(|set| !set.elements.is_null());
        // SAFETY: it says that so many buffers are there.
        let buffers = buffers.map(|set| unsafe { std::slice::from_raw_parts_mut(set.elements, set.count) });
        let found = buffers.and_then(|buffers| {
            let [key, kind, ..] = buffers else { return None };
            wipe(key);
            number(bytes(kind).strip_prefix(SESSION_KEY_ENCTYPE)?)
        });
        // SAFETY: the set is the library's, or null, and not used again.
        unsafe { (self.table.gss_release_buffer_set)(&raw mut minor, &raw mut set) };
        found.map(Enctype).ok_or_else(|| Failed::new(Status::Other, "the library does not say which key it uses"))
    }

    /// Wraps with privacy.
    pub fn wrap(&mut self, clear: &[u8]) -> Result<Output, Failed> {
        let (given, mut minor, mut private, mut out) = (input(clear), 0, 0, Output::new(&self.table));
        // SAFETY: the handle is this context's; every pointer is to a value that outlives the call.
        let major = unsafe {
            (self.table.gss_wrap)(
                &raw mut minor,
                self.handle,
                1,
                0,
                &raw const given,
                &raw mut private,
                &raw mut out.buffer,
            )
        };
        done(&self.table, major, minor)?;
        if private == 0 {
            return Err(Failed::new(Status::Other, "the library did not encrypt"));
        }
        Ok(out)
    }

    /// Unwraps what is not rotated: otherwise the library would turn it where it is. Gives also the supplementary bits.
    pub fn unwrap(&mut self, wrapped: &[u8]) -> Result<(Output, Major), Failed> {
        let (given, mut minor, mut private, mut quality) = (input(wrapped), 0, 0, 0);
        let mut out = Output::new(&self.table);
        // SAFETY: the handle is this context's; every pointer is to a value that outlives the call. Of what is not rotated
        // the library works on a copy.
        let major = unsafe {
            (self.table.gss_unwrap)(
                &raw mut minor,
                self.handle,
                &raw const given,
                &raw mut out.buffer,
                &raw mut private,
                &raw mut quality,
            )
        };
        done(&self.table, major, minor)?;
        if private == 0 {
            return Err(Failed::new(Status::Token, "a message that is not encrypted"));
        }
        if out.buffer.length > wrapped.len() {
            // Nobody has so many: not even to be wiped.
            out.buffer = EMPTY;
            return Err(Failed::new(Status::Token, "a message that is longer than what it came in"));
        }
        Ok((out, major))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let mut minor = 0;
        if !self.handle.is_null() {
            // SAFETY: the handle is this context's, and not used again.
            unsafe { (self.table.gss_delete_sec_context)(&raw mut minor, &raw mut self.handle, null_mut()) };
        }
    }
}

/// The number in the last arc of an object identifier (X.690, section 8.19).
fn number(arc: &[u8]) -> Option<i32> {
    let (last, rest) = arc.split_last()?;
    let digits = rest.iter().all(|byte| byte & 0x80 != 0) && last & 0x80 == 0 && arc.len() <= 4;
    digits.then(|| arc.iter().fold(0, |number, byte| (number << 7) | i32::from(byte & 0x7f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arc_is_read_to_its_end() {
        assert_eq!(number(&[20]), Some(20));
        assert_eq!(number(&[0x81, 0x00]), Some(128));
        for bad in [&[][..], &[0x81], &[20, 20], &[0x81, 0x80, 0x80, 0x80, 0x00]] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_failure_is_known_by_its_number() {
        let krb5 = |number: i64| u32::try_from((BASE + number) & 0xffff_ffff).unwrap();
        assert_eq!(status(13 << 16, krb5(37)), Status::Skew);
        assert_eq!(status(13 << 16, krb5(156)), Status::KdcUnreachable);
        assert_eq!(status(13 << 16, krb5(8)), Status::Doubled);
        assert_eq!(status(BAD_BINDINGS, 0), Status::Bindings);
        assert_eq!(status(DEFECTIVE_TOKEN, 0), Status::Token);
        assert_eq!(status(13 << 16, 0), Status::Other);
    }
}
