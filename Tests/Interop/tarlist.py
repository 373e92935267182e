#!/usr/bin/env python3
"""List a tar archive as Python's tarfile reads it, one line an entry, the same line that the tests make of crfs's own reading.
usage: tarlist.py FILE   (anything that tarfile opens)"""
import decimal, hashlib, sys, tarfile

KINDS = {tarfile.DIRTYPE: 'dir', tarfile.SYMTYPE: 'symlink', tarfile.LNKTYPE: 'hardlink', tarfile.CHRTYPE: 'char',
         tarfile.BLKTYPE: 'block', tarfile.FIFOTYPE: 'fifo'}


def raw(text):
    return text.encode('utf-8', 'surrogateescape').hex()


with tarfile.open(sys.argv[1], errors='surrogateescape', encoding='utf-8') as archive:
    for member in archive:
        kind = KINDS.get(member.type, 'reg')
        mtime = decimal.Decimal(member.pax_headers.get('mtime', int(member.mtime)))
        digest = hashlib.sha256(archive.extractfile(member).read()).hexdigest() if kind == 'reg' else '-'
        device = (member.devmajor, member.devminor) if kind in ('char', 'block') else (0, 0)
        xattrs = sorted((key[13:], value) for key, value in member.pax_headers.items() if key.startswith('SCHILY.xattr.'))
        print(kind, raw(member.name.rstrip('/')), '%04o' % (member.mode & 0o7777), member.uid, member.gid,
              raw(member.uname), raw(member.gname), member.size if kind == 'reg' else 0, int(mtime * 10**9),
              raw(member.linkname) if kind in ('symlink', 'hardlink') else '', '%d:%d' % device, digest,
              ','.join(raw(key) + '=' + raw(value) for key, value in xattrs))
