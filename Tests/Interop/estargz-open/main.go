// Opens an eStargz, stargz or zstd:chunked blob with the Go library that container engines use, and reads all of it.
//
// usage: estargz-open BLOB [TOC-DIGEST]
//
// With a digest the TOC is verified against it, and every chunk against the TOC. Prints one line for each entry:
// type, mode, uid, gid, size, SHA-256 of the content (or the link's target), name. Built by the tests in GOPATH mode
// with Debian's golang-github-containerd-stargz-snapshotter-dev.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	digest "github.com/opencontainers/go-digest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "estargz-open:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("usage: estargz-open BLOB [TOC-DIGEST]")
	}
	file, err := os.Open(os.Args[1])
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	section := io.NewSectionReader(file, 0, info.Size())
	blob, err := estargz.Open(section, estargz.WithDecompressors(new(zstdchunked.Decompressor)))
	if err != nil {
		return err
	}
	var verifier estargz.TOCEntryVerifier
	if len(os.Args) > 2 {
		if verifier, err = blob.VerifyTOC(digest.Digest(os.Args[2])); err != nil {
			return err
		}
	}
	root, ok := blob.Lookup("")
	if !ok {
		return fmt.Errorf("no root")
	}
	return walk(blob, verifier, root, "")
}

func walk(blob *estargz.Reader, verifier estargz.TOCEntryVerifier, entry *estargz.TOCEntry, name string) error {
	detail := entry.LinkName
	if entry.Type == "reg" {
		sum, err := read(blob, verifier, entry)
		if err != nil {
			return fmt.Errorf("%s: %v", name, err)
		}
		detail = sum
	}
	fmt.Printf("%s %o %d %d %d %s %s\n", entry.Type, entry.Mode, entry.UID, entry.GID, entry.Size, detail, name)
	var failure error
	entry.ForeachChild(func(base string, child *estargz.TOCEntry) bool {
		failure = walk(blob, verifier, child, path.Join(name, base))
		return failure == nil
	})
	return failure
}

func read(blob *estargz.Reader, verifier estargz.TOCEntryVerifier, entry *estargz.TOCEntry) (string, error) {
	content, err := blob.OpenFile(entry.Name)
	if err != nil {
		return "", err
	}
	whole := sha256.New()
	for offset := int64(0); offset < entry.Size; {
		chunk, ok := blob.ChunkEntryForOffset(entry.Name, offset)
		if !ok {
			return "", fmt.Errorf("no chunk at %d", offset)
		}
		data := make([]byte, chunk.ChunkSize)
		if _, err := content.ReadAt(data, chunk.ChunkOffset); err != nil && err != io.EOF {
			return "", err
		}
		if verifier != nil {
			check, err := verifier.Verifier(chunk)
			if err != nil {
				return "", err
			}
			check.Write(data)
			if !check.Verified() {
				return "", fmt.Errorf("wrong digest of the chunk at %d", offset)
			}
		}
		whole.Write(data)
		offset = chunk.ChunkOffset + chunk.ChunkSize
	}
	sum := fmt.Sprintf("sha256:%x", whole.Sum(nil))
	if entry.Digest != "" && entry.Digest != sum {
		return "", fmt.Errorf("wrong digest of the file: %s, not %s", sum, entry.Digest)
	}
	return sum, nil
}
