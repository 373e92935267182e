// swift-tools-version: 6.2
import PackageDescription

// Modules stand in rows; a module imports only from the rows above it in this file. The build holds that with
// `--explicit-target-dependency-import-check error` (see Makefile).

let swiftSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableExperimentalFeature("Lifetimes"),
]

let log: Target.Dependency = .product(name: "Logging", package: "swift-log")
let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")

func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .testTarget(
        name: name,
        dependencies: dependencies + ["TestSupport"],
        exclude: exclude,
        swiftSettings: swiftSettings
    )
}

func library(_ name: String, pkgConfig: String, apt: String) -> Target {
    .systemLibrary(
        name: name,
        path: "CShims/system/\(pkgConfig)",
        pkgConfig: pkgConfig,
        providers: [.apt([apt])]
    )
}

let package = Package(
    name: "crfs",
    products: [
        .executable(name: "crfs", targets: ["crfs"]),
        // For the packages in Benchmarks/ and Tests/Fuzz/ only.
        .library(
            name: "CrfsModules",
            targets: ["BlobIO", "ChunkStore", "LayerFormat", "BlockCodec", "OCIModel", "PosixIO", "CShims"]
        ),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: [
        // Row 0: the C libraries and the one C target that speaks to them.
        library("CFuse3", pkgConfig: "fuse3", apt: "libfuse3-dev"),
        library("CDeflate", pkgConfig: "libdeflate", apt: "libdeflate-dev"),
        library("CLZ4", pkgConfig: "liblz4", apt: "liblz4-dev"),
        library("CCurl", pkgConfig: "libcurl", apt: "libcurl4-openssl-dev"),
        library("CZstd", pkgConfig: "libzstd", apt: "libzstd-dev"),
        library("CZlib", pkgConfig: "zlib", apt: "zlib1g-dev"),
        library("CCrypto", pkgConfig: "libcrypto", apt: "libssl-dev"),
        .target(
            name: "CShims",
            dependencies: ["CFuse3", "CDeflate", "CLZ4", "CCurl", "CZstd", "CZlib", "CCrypto"],
            path: "CShims/shims",
            linkerSettings: [
                // By name: SwiftPM refuses the defines in simdjson's pkg-config file.
                .linkedLibrary("simdjson"),
                .linkedLibrary("stdc++"),
            ]
        ),

        // Row 1
        module("PosixIO", ["CShims"]),
        module("OCIModel", []),
        // Row 2
        module("Control", ["CShims", "PosixIO", log]),
        module("BlockCodec", ["CShims", "PosixIO", "OCIModel"]),
        module("HTTPTransport", ["CShims", "PosixIO", "OCIModel", log]),
        // Row 3
        module("LayerFormat", ["CShims", "BlockCodec", "OCIModel", "PosixIO"]),
        module("ChunkStore", ["CShims", "PosixIO", "BlockCodec", "OCIModel"]),
        module("OCIRegistry", ["CShims", "HTTPTransport", "OCIModel", "PosixIO", "BlockCodec", log]),
        // Row 4
        module("LayerWriter", ["CShims", "BlockCodec", "OCIModel", "PosixIO", "LayerFormat"]),
        module(
            "BlobIO",
            ["LayerFormat", "ChunkStore", "OCIRegistry", "HTTPTransport", "BlockCodec", "OCIModel", "PosixIO", log]
        ),
        // Row 5
        module(
            "ImageFS",
            ["BlobIO", "LayerFormat", "ChunkStore", "OCIRegistry", "HTTPTransport", "OCIModel", "PosixIO", log]
        ),
        module(
            "ImageConverter",
            ["LayerWriter", "OCIRegistry", "HTTPTransport", "BlockCodec", "OCIModel", "PosixIO"]
        ),
        // Row 6
        module("FuseBridge", ["CShims", "CFuse3", "ImageFS", "BlobIO", "ChunkStore", "PosixIO", log]),
        // Row 7
        .executableTarget(
            name: "crfs",
            dependencies: [
                "Control", "FuseBridge", "ImageFS", "ImageConverter", "BlobIO", "LayerFormat", "LayerWriter",
                "ChunkStore",
                "OCIRegistry", "HTTPTransport", "BlockCodec", "OCIModel", "PosixIO", "CShims", log, arguments,
            ],
            swiftSettings: swiftSettings
        ),

        // Tests
        .target(
            name: "TestSupport",
            dependencies: ["PosixIO", "OCIModel"],
            path: "Tests/TestSupport",
            exclude: [
                "faultproxy.py", "mklayout.py", "mktars.py", "reader.py", "signingfront.py", "tokenserver.py",
                "treelist.py",
            ],
            swiftSettings: swiftSettings
        ),
        tests("PosixIOTests", ["PosixIO"]),
        tests("OCIModelTests", ["OCIModel"]),
        tests("ControlTests", ["Control", "CShims", "PosixIO", log]),
        tests("BlockCodecTests", ["BlockCodec", "OCIModel", "PosixIO"]),
        tests("HTTPTransportTests", ["HTTPTransport", "OCIModel", "PosixIO"]),
        tests("LayerFormatTests", ["LayerFormat", "BlockCodec", "OCIModel", "PosixIO"]),
        tests("LayerWriterTests", ["LayerWriter", "LayerFormat", "BlockCodec", "OCIModel", "PosixIO"]),
        tests("ChunkStoreTests", ["ChunkStore", "BlockCodec", "OCIModel", "PosixIO"]),
        tests(
            "OCIRegistryTests",
            ["OCIRegistry", "HTTPTransport", "BlockCodec", "OCIModel", "PosixIO"],
            exclude: ["fakeregistry.py", "h2server.py"]
        ),
        tests(
            "BlobIOTests",
            [
                "BlobIO", "LayerFormat", "LayerWriter", "ChunkStore", "OCIRegistry", "HTTPTransport", "BlockCodec",
                "OCIModel", "PosixIO", log,
            ]
        ),
        tests(
            "ImageFSTests",
            ["ImageFS", "BlobIO", "LayerFormat", "OCIRegistry", "HTTPTransport", "OCIModel", "PosixIO", log]
        ),
        tests("FuseBridgeTests", ["FuseBridge", "ImageFS", "ChunkStore", "PosixIO", "CShims", "CFuse3", log]),
        tests("MountTests", ["OCIModel", "PosixIO"]),
    ]
)
