// swift-tools-version: 6.2
import PackageDescription

// Benchmarks are a package of their own, so that nothing of them is built with crfs.

let package = Package(
    name: "Benchmarks",
    dependencies: [
        .package(name: "crfs", path: ".."),
        // Without its interposers of malloc and reference counting, which would be in what is measured.
        .package(url: "https://github.com/ordo-one/benchmark", from: "1.38.1", traits: []),
    ],
    targets: [
        .target(
            name: "SyntheticTOC",
            path: "SyntheticTOC",
            swiftSettings: [.swiftLanguageMode(.v6)]
        ),
        .executableTarget(
            name: "IndexBench",
            dependencies: [
                "SyntheticTOC",
                .product(name: "CrfsModules", package: "crfs"),
            ],
            path: "IndexBench",
            swiftSettings: [.swiftLanguageMode(.v6)]
        ),
        .executableTarget(
            name: "Micro",
            dependencies: [
                "SyntheticTOC",
                .product(name: "CrfsModules", package: "crfs"),
                .product(name: "Benchmark", package: "benchmark"),
            ],
            path: "Micro",
            swiftSettings: [
                .swiftLanguageMode(.v6),
                // As the sources of BlobIO in Planning are compiled there.
                .enableUpcomingFeature("ExistentialAny"),
                .enableUpcomingFeature("InternalImportsByDefault"), .enableUpcomingFeature("MemberImportVisibility"),
            ],
            plugins: [.plugin(name: "BenchmarkPlugin", package: "benchmark")]
        ),
    ]
)
