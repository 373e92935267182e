// swift-tools-version: 6.2
import PackageDescription

// libFuzzer targets, a package of their own: run.sh builds all of it, crfs's modules included, with the sanitizers.
// A new target is a folder with one file, its name in this list and in Entry/entry.c, and a folder of inputs in corpus/,
// by which run.sh finds it.

let swiftSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    // One file without statements of its own: the entry point is in Entry.
    .unsafeFlags(["-parse-as-library"]),
]

func target(_ name: String) -> Target {
    .executableTarget(
        name: name,
        dependencies: ["Entry", .product(name: "CrfsModules", package: "crfs")],
        path: name,
        swiftSettings: swiftSettings
    )
}

let package = Package(
    name: "Fuzz",
    dependencies: [
        .package(name: "crfs", path: "../..")
    ],
    targets: [
        .target(name: "Entry", path: "Entry"),
        target("FooterFuzz"),
        target("FrameFuzz"),
        target("TOCFuzz"),
        target("MemberFuzz"),
        target("TarFuzz"),
    ]
)
