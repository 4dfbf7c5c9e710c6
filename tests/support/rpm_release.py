#!/usr/bin/env python3
"""Copies an RPM package with another release of the same length: rpm_release.py FROM TO RELEASE."""

import hashlib
import pathlib
import struct
import sys

LEAD = 96
RELEASE = 1002
# Of the signature header: digests of the header in hexadecimal, and one of header and payload.
SHA1, SHA256, MD5 = 269, 273, 1004


def header(data, start):
    """The entries of the header that begins there (tag, type, offset, count), where its store begins, and its end."""
    assert data[start : start + 4] == b"\x8e\xad\xe8\x01", "no header"
    count, size = struct.unpack_from(">II", data, start + 8)
    entries = [struct.unpack_from(">IIII", data, start + 16 + 16 * index) for index in range(count)]
    store = start + 16 + 16 * count
    return entries, store, store + size


def main():
    source, target, release = sys.argv[1:]
    data = bytearray(pathlib.Path(source).read_bytes())
    digests, digest_store, end = header(data, LEAD)
    # The signature is padded to 8 bytes.
    start = (end + 7) // 8 * 8
    entries, store, end = header(data, start)
    (at,) = [store + offset for tag, _, offset, _ in entries if tag == RELEASE]
    assert data.index(0, at) - at == len(release), "the release has another length"
    data[at : at + len(release)] = release.encode()
    made = {
        SHA1: hashlib.sha1(data[start:end]).hexdigest().encode(),
        SHA256: hashlib.sha256(data[start:end]).hexdigest().encode(),
        MD5: hashlib.md5(data[start:]).digest(),
    }
    for tag, _, offset, _ in digests:
        if digest := made.get(tag):
            data[digest_store + offset : digest_store + offset + len(digest)] = digest
    pathlib.Path(target).write_bytes(data)


if __name__ == "__main__":
    main()
