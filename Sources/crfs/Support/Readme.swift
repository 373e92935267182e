/// What README-crfs.txt in a mount says.
enum Readme {
    static let text = """
        This is crfs \(Version.text), a read-only file system of container images.

        images/<host>/<repository>/<tag>/             an image's root file system
        layers/<host>/<repository>/<tag>/             its manifest, its configuration, and its layers one by one
        layers/local/<file>/                          a layer file of the directory that crfs was told

        Nothing is listed that was not asked for or that the registry does not list: just look a name up, for
        instance  ls images/index.docker.io/debian/12/etc

        Bytes come from the registry when they are read. Writes fail with "read-only file system".
        The documentation is in the docs/ directory of the crfs source; `crfs --help` lists the commands.

        """
}
