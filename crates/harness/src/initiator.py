"""A Kerberos client that does what it is told: any flags, any channel binding or none, any mechanism, messages with or
without encryption. One command per line, bytes in hexadecimal; answers `ok HEX` or `error TEXT`."""

import ctypes as c
import sys

library = c.CDLL("libgssapi_krb5.so.2")


class Buffer(c.Structure):
    _fields_ = [("length", c.c_size_t), ("value", c.c_void_p)]

    def taken(self):
        return c.string_at(self.value, self.length) if self.value else b""


class Oid(c.Structure):
    _fields_ = [("length", c.c_uint32), ("elements", c.c_void_p)]


class Bindings(c.Structure):
    _fields_ = [
        ("initiator_type", c.c_uint32),
        ("initiator", Buffer),
        ("acceptor_type", c.c_uint32),
        ("acceptor", Buffer),
        ("application", Buffer),
    ]


kept = []


def of(bytes_):
    kept.append(c.create_string_buffer(bytes_, len(bytes_)))
    return c.cast(kept[-1], c.c_void_p)


def buffer(bytes_):
    return Buffer(len(bytes_), of(bytes_))


def oid(text):
    bytes_ = bytes.fromhex(text)
    return Oid(len(bytes_), of(bytes_))


KRB5 = oid("2a864886f712010202")
SPNEGO = oid("2b0601050502")
PRINCIPAL = oid("2a864886f71201020201")

minor = c.c_uint32()
context = c.c_void_p()
name = c.c_void_p()


def said(major):
    more, text = c.c_uint32(0), Buffer()
    if minor.value:
        library.gss_display_status(c.byref(minor), minor, 2, c.byref(KRB5), c.byref(more), c.byref(text))
    else:
        library.gss_display_status(c.byref(minor), major, 1, None, c.byref(more), c.byref(text))
    return text.taken().decode(errors="replace") or hex(major & 0xFFFFFFFF)


def check(major):
    if major & 0xFFFF0000:
        raise ValueError(said(major))


def step(flags, binding, mechanism, token):
    bound = Bindings()
    if binding is not None:
        bound.application = buffer(binding)
    given, out = buffer(token), Buffer()
    check(
        library.gss_init_sec_context(
            c.byref(minor),
            None,
            c.byref(context),
            name,
            c.byref(mechanism),
            c.c_uint32(flags),
            c.c_uint32(0),
            c.byref(bound) if binding is not None else None,
            c.byref(given),
            None,
            c.byref(out),
            None,
            None,
        )
    )
    return out.taken()


begun = None


def begin(flags, binding, mechanism):
    global begun
    context.value = None
    binding = None if binding == "-" else bytes.fromhex(binding)
    begun = (int(flags), binding, SPNEGO if mechanism == "spnego" else KRB5)
    return step(*begun, b"")


def finish(token):
    return step(*begun, bytes.fromhex(token))


def wrap(private, clear):
    given, out = buffer(bytes.fromhex(clear)), Buffer()
    check(library.gss_wrap(c.byref(minor), context, int(private), 0, c.byref(given), None, c.byref(out)))
    return out.taken()


def unwrap(token):
    given, out = buffer(bytes.fromhex(token)), Buffer()
    check(library.gss_unwrap(c.byref(minor), context, c.byref(given), c.byref(out), None, None))
    return out.taken()


target = buffer(sys.argv[1].encode())
check(library.gss_import_name(c.byref(minor), c.byref(target), c.byref(PRINCIPAL), c.byref(name)))
for line in sys.stdin:
    command, *arguments = line.split()
    try:
        answer = {"begin": begin, "finish": finish, "wrap": wrap, "unwrap": unwrap}[command](*arguments)
        print("ok", answer.hex(), flush=True)
    except ValueError as error:
        print("error", error, flush=True)
