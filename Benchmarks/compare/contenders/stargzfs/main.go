// Mounts an image with stargz-snapshotter's file system, the way its snapshotter does, without containerd around it.
//
// usage: stargzfs -scheme http|https -root DIR [options] HOST/REPOSITORY:TAG
//
// Below DIR: cache (its caches), layers/N (a FUSE mount for each layer, 0 the bottom one) and rootfs (a read-only
// overlay of them, what a container sees). Layers are mounted one after the other from the bottom; the first one makes
// the library resolve all of them at once, as it happens under containerd. SIGTERM and SIGINT unmount. Certificates to
// trust: SSL_CERT_FILE.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/reference"
	"github.com/containerd/containerd/remotes/docker"
	"github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/source"
	"github.com/containerd/stargz-snapshotter/snapshot"
	rhttp "github.com/hashicorp/go-retryablehttp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	label    = "containerd.io/snapshot/remote/stargz."
	manifest = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, "
	index    = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
)

type options struct {
	scheme, root string
	chunkSize    int64
	prefetchSize int64
	prefetch     bool
	background   bool
	unverified   bool
}

func main() {
	var o options
	flag.StringVar(&o.scheme, "scheme", "https", "http or https")
	flag.StringVar(&o.root, "root", "", "directory for caches and mounts")
	flag.Int64Var(&o.chunkSize, "chunk-size", 0, "bytes of one blob request (0: the library's default of 50,000)")
	flag.BoolVar(&o.prefetch, "prefetch", false, "prefetch each layer up to its landmark, and wait for that")
	flag.Int64Var(&o.prefetchSize, "prefetch-size", 10<<20, "bytes to prefetch of layers without a landmark")
	flag.BoolVar(&o.background, "background", false, "fetch everything in the background")
	flag.BoolVar(&o.unverified, "unverified", false, "mount layers whose manifest names no TOC digest")
	flag.Parse()
	if err := run(o, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "stargzfs:", err)
		os.Exit(1)
	}
}

func run(o options, name string) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ref, err := reference.Parse(name)
	if err != nil {
		return err
	}
	image, err := fetchManifest(o.scheme, ref)
	if err != nil {
		return err
	}
	filesystem, err := fs.NewFilesystem(filepath.Join(o.root, "cache"), config.Config{
		NoPrefetch:           !o.prefetch,
		NoBackgroundFetch:    !o.background,
		NoPrometheus:         true,
		AllowNoVerification:  o.unverified,
		BlobConfig:           config.BlobConfig{ChunkSize: o.chunkSize},
		DirectoryCacheConfig: config.DirectoryCacheConfig{Direct: true}, // what its configuration file defaults to
	}, fs.WithGetSources(source.FromDefaultLabels(hosts(o.scheme))))
	if err != nil {
		return err
	}
	mounted, err := mountAll(o, filesystem, ref, image)
	defer unmountAll(o, filesystem, mounted)
	if err != nil {
		return err
	}
	fmt.Println("serving", filepath.Join(o.root, "rootfs"))
	<-signals
	return nil
}

// hosts is what the snapshotter's own resolver makes of an empty configuration, with the scheme that we say.
func hosts(scheme string) source.RegistryHosts {
	return func(ref reference.Spec) ([]docker.RegistryHost, error) {
		client := rhttp.NewClient()
		client.Logger = nil
		standard := client.StandardClient()
		standard.Timeout = 30 * time.Second
		return []docker.RegistryHost{{
			Client: standard, Host: ref.Hostname(), Scheme: scheme, Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
			Authorizer:   docker.NewDockerAuthorizer(docker.WithAuthClient(standard)),
		}}, nil
	}
}

func mountAll(o options, filesystem snapshot.FileSystem, ref reference.Spec, image ocispec.Manifest) ([]string, error) {
	ctx := context.Background()
	var mounted []string
	layers := filepath.Join(o.root, "layers")
	for i, layer := range image.Layers {
		point := filepath.Join(layers, strconv.Itoa(i))
		if err := os.MkdirAll(point, 0o755); err != nil {
			return mounted, err
		}
		labels := labelsOf(o, ref, image, i)
		if err := filesystem.Mount(ctx, point, labels); err != nil {
			return mounted, fmt.Errorf("layer %d, %s: %w", i, layer.Digest, err)
		}
		mounted = append(mounted, point)
		if err := filesystem.Check(ctx, point, labels); err != nil { // waits for the prefetch
			return mounted, err
		}
	}
	// Relative names, so that many layers fit into the page that mount(2) takes. One layer alone needs a second one.
	if err := os.MkdirAll(filepath.Join(layers, "e"), 0o755); err != nil {
		return mounted, err
	}
	if err := os.Chdir(layers); err != nil {
		return mounted, err
	}
	var lower []string
	for i := len(image.Layers) - 1; i >= 0; i-- {
		lower = append(lower, strconv.Itoa(i))
	}
	point := filepath.Join(o.root, "rootfs")
	if err := os.MkdirAll(point, 0o755); err != nil {
		return mounted, err
	}
	names := strings.Join(append(lower, "e"), ":")
	if err := syscall.Mount("overlay", point, "overlay", syscall.MS_RDONLY, "lowerdir="+names); err != nil {
		return mounted, fmt.Errorf("overlay of %s: %w", names, err)
	}
	return mounted, nil
}

// labelsOf makes the labels that containerd's client hands to the snapshotter for a layer.
func labelsOf(o options, ref reference.Spec, image ocispec.Manifest, number int) map[string]string {
	labels := map[string]string{
		label + "reference": ref.String(),
		label + "digest":    image.Layers[number].Digest.String(),
		label + "prefetch":  strconv.FormatInt(o.prefetchSize, 10),
	}
	if o.unverified {
		labels[label+"skipverify"] = "true"
	}
	var digests []string
	for _, layer := range image.Layers[number:] {
		digests = append(digests, layer.Digest.String())
	}
	labels[label+"layers"] = strings.Join(digests, ",")
	for key, value := range image.Layers[number].Annotations {
		labels[key] = value
	}
	return labels
}

func unmountAll(o options, filesystem snapshot.FileSystem, mounted []string) {
	_ = syscall.Unmount(filepath.Join(o.root, "rootfs"), syscall.MNT_DETACH)
	for i := len(mounted) - 1; i >= 0; i-- {
		_ = filesystem.Unmount(context.Background(), mounted[i])
	}
}

// fetchManifest gets the manifest of a tag, of this machine's platform where it names an index.
func fetchManifest(scheme string, ref reference.Spec) (image ocispec.Manifest, err error) {
	repository := strings.TrimPrefix(ref.Locator, ref.Hostname()+"/")
	base := scheme + "://" + ref.Hostname() + "/v2/" + repository + "/manifests/"
	body, err := get(base + ref.Object)
	if err != nil {
		return image, err
	}
	var list ocispec.Index
	if err := json.Unmarshal(body, &list); err != nil {
		return image, err
	}
	for _, entry := range list.Manifests {
		if entry.Platform != nil && entry.Platform.OS == "linux" && entry.Platform.Architecture == runtime.GOARCH {
			if body, err = get(base + entry.Digest.String()); err != nil {
				return image, err
			}
			break
		}
	}
	if err := json.Unmarshal(body, &image); err != nil {
		return image, err
	}
	if len(image.Layers) == 0 {
		return image, fmt.Errorf("%s names no layers", base+ref.Object)
	}
	return image, nil
}

func get(url string) ([]byte, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", manifest+index)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}
