import HTTPTransport
import LayerFormat
import OCIModel
import OCIRegistry
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

@Suite struct PrefetchPlanTests {
    @Test func theWindowIsWhatARoundTripIsWorthWithinItsBounds() {
        let fast = LinkEstimate(roundTrip: 30_000_000, bytesPerSecond: 200_000_000)
        let limits = FetchLimits.store(of: 64 << 20)
        #expect(
            PrefetchPlan.window(.profile, fast, limits, isQuiet: true) == FetchPlanner.roundTripWorth(fast) + (2 << 20)
        )
        for kind in PrefetchKind.allCases {
            for roundTrip: UInt64 in [0, 1_000_000, 50_000_000, 2_000_000_000, .max / 4] {
                let link = LinkEstimate(roundTrip: roundTrip, bytesPerSecond: 100_000_000)
                let window = PrefetchPlan.window(kind, link, limits, isQuiet: false)
                #expect((1 << 20...12 << 20).contains(window))
                #expect((512 << 10...2 << 20).contains(PrefetchPlan.span(link)))
                for planned: UInt64 in [0, 1 << 20, 1 << 40] {
                    let step = PrefetchPlan.step(window: window, planned: planned)
                    #expect(step <= window / 2 || step == 256 << 10)
                }
            }
        }
        #expect(
            PrefetchPlan.window(.background, fast, limits, isQuiet: false)
                < PrefetchPlan.window(.background, fast, limits, isQuiet: true)
        )
    }
}

@Suite struct PrefetchTests {
    /// 200 files of 20 kB: 4 MB.
    private let layer = TestLayer((0..<200).map { .init(name: "f\($0)", content: noise(20_000, seed: UInt64($0))) })

    private func position(_ layer: Layer, _ name: String) throws -> UInt32 {
        let chunk = layer.index.chunks(try layer.record(name)).lowerBound
        return try #require(layer.index.blobPosition(of: chunk))
    }

    private func profile(_ layer: Layer, _ names: [String]) throws -> Profile {
        var profile = Profile(manifest: layer.digest, job: "")
        profile.layers = [ProfileLayer(layer)]
        profile.items = try names.map { .init(ProfilePlace(layer: 0, position: try position(layer, $0))) }
        return profile
    }

    private func hasAll(_ bench: Bench, _ layer: Layer, _ names: [String]) throws -> Bool {
        for name in names where try bench.begin(layer, name).isParked { return false }
        return true
    }

    @Test func aProfileComesInWideRequestsAndInItsOrder() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        // First the end of the blob, then its beginning.
        let names = (150..<200).map { "f\($0)" } + (0..<50).map { "f\($0)" }
        let job = bench.blobIO.prefetchJob(.profile, try profile(opened, names), of: [opened])
        #expect(bench.blobIO.missingBytes(job) > 2_000_000)
        bench.blobIO.start(job)
        await wait(for: job.completion)
        #expect(job.failure == nil)
        #expect(try hasAll(bench, opened, names))
        let ranges = source.ranges
        #expect(ranges.count <= 12)
        #expect(ranges.first?.offset == UInt64(layer.memberOffsets[150]))
        let late = ranges.firstIndex { $0.offset == 0 }
        #expect((late ?? 0) >= ranges.count / 3)
        // Nothing that is not in the profile, and nothing twice.
        #expect(
            ranges.allSatisfy {
                $0.end <= UInt64(layer.memberOffsets[50]) || $0.offset >= UInt64(layer.memberOffsets[150])
            }
        )
        #expect(job.fetched == ranges.reduce(0) { $0 + $1.count })
        #expect(bench.blobIO.missingBytes(job) == 0)
    }

    @Test func whatIsReadOfAPrefetchIsCounted() async throws {
        let bench = try Bench()
        let opened = try await bench.open(layer, ScriptedSource(layer.blob))
        let job = bench.blobIO.prefetchJob(.profile, try profile(opened, ["f1", "f2", "f3", "f4"]), of: [opened])
        bench.blobIO.start(job)
        await wait(for: job.completion)
        for _ in 0..<2 { for name in ["f2", "f3", "f9"] { _ = try await bench.read(opened, name) } }
        let figures = bench.blobIO.prefetchStatistics[PrefetchKind.profile.rawValue]
        #expect(figures.fetched == job.fetched)
        let expected = UInt64(layer.memberOffsets[4] - layer.memberOffsets[2])
        #expect(figures.read == expected)
        #expect(bench.blobIO.aheadBudget.used == 0)
    }

    @Test func onlyAProfileOfThisVeryTOCIsFollowed() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        var profile = try profile(opened, ["f1"])
        profile.layers[0].toc = digest(of: [1])
        let job = bench.blobIO.prefetchJob(.profile, profile, of: [opened])
        bench.blobIO.start(job)
        await wait(for: job.completion)
        #expect(source.requestCount == 0)
    }

    /// A place whose answers to all but readers wait for `gate`.
    private func place(holding gate: Completion) -> Place {
        Place(name: "gated") { (range, priority, _) throws(BlobError) in
            if priority != .demand { await wait(for: gate) }
            return SharedBytes(Array(self.layer.blob[Int(range.offset)..<Int(range.end)]))
        }
    }

    @Test func aDemandReadEndsWhileALargePrefetchIsUnderWay() async throws {
        let bench = try Bench()
        let gate = Completion()
        let opened = try await bench.blobIO.open(layer.descriptor(), at: place(holding: gate))
        let job = bench.blobIO.prefetchJob(.profile, try profile(opened, (0..<150).map { "f\($0)" }), of: [opened])
        bench.blobIO.start(job)
        #expect(await eventually { bench.blobIO.prefetcher.requests > 0 })
        // One that is not in the prefetch, and one that is and was not asked for yet.
        #expect(try await bench.read(opened, "f180") == layer.files[180].content)
        #expect(bench.blobIO.prefetcher.bytes > 0)
        #expect(!job.completion.isFinished)
        // One that is on its way joins its flight, which is a reader's from then on.
        let joined = try bench.begin(opened, "f0")
        #expect(joined.isParked)
        let flight = bench.blobIO.flights.withLock { $0[Flight.Key(opened, 0)] }
        #expect(flight?.isWanted == true)
        gate.finish()
        #expect(try await bench.finish(bench.blobIO, joined) == layer.files[0].content)
        await wait(for: job.completion)
        #expect(job.failure == nil)
    }

    @Test func bytesOnTheirWayAreBounded() async throws {
        // 60 MB in members of 1 MB.
        let large = TestLayer((0..<60).map { .init(name: "f\($0)", content: noise(1 << 20, seed: UInt64($0))) })
        let bench = try Bench(cacheBytes: 256 << 20)
        let source = ScriptedSource(large.blob)
        let opened = try await bench.open(large, source)
        source.forgetRequests()
        source.hold()
        let job = bench.blobIO.prefetchJob(.warm, allOf: [opened])
        bench.blobIO.start(job)
        #expect(await eventually { bench.blobIO.prefetcher.bytes > 1 << 20 })
        // Whoever plans has come to its end when another job of it is through.
        await Prefetcher.pool.run {}
        await Prefetcher.pool.run {}
        #expect(bench.blobIO.prefetcher.bytes <= 12 << 20)
        #expect(source.ranges.reduce(0) { $0 + $1.count } <= 12 << 20)
        source.release()
        await wait(for: job.completion)
        #expect(job.fetched == UInt64(large.tocOffset))
        #expect(bench.blobIO.prefetcher.bytes == 0)
        #expect(bench.blobIO.prefetcher.members == 0)
    }

    /// Wherever in the order of first use they stand: what lies beside each other comes in one request. The requests go
    /// out in the order of the first use of what is in them.
    @Test func whatAProfileHasOfOnePlaceIsOneRequest() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.forgetRequests()
        // From three places of the layer in turns, the last one first.
        let names = (0..<20).flatMap { number in [160, 80, 0].map { "f\($0 + number)" } }
        let job = bench.blobIO.prefetchJob(.profile, try profile(opened, names), of: [opened])
        bench.blobIO.start(job)
        await wait(for: job.completion)
        #expect(job.failure == nil)
        let offsets = layer.memberOffsets.map { UInt64($0) }
        #expect(source.ranges.map(\.offset) == [offsets[160], offsets[80], offsets[0]])
        for name in names {
            let number = try #require(layer.files.firstIndex { $0.name == name })
            #expect(try await bench.read(opened, name) == layer.files[number].content)
        }
        #expect(source.requestCount == 3)
    }

    @Test func aMoreUrgentJobGoesFirst() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.hold()
        let background = bench.blobIO.prefetchJob(.background, allOf: [opened])
        bench.blobIO.start(background)
        #expect(await eventually { source.requestCount > 0 })
        source.forgetRequests()
        let profile = bench.blobIO.prefetchJob(.profile, try profile(opened, ["f199", "f198"]), of: [opened])
        bench.blobIO.start(profile)
        source.release()
        await wait(for: profile.completion)
        #expect(source.ranges.contains { $0.offset == UInt64(layer.memberOffsets[198]) })
        await wait(for: background.completion)
        #expect(background.failure == nil)
    }

    @Test func theBackgroundStopsAtItsBound() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        let job = bench.blobIO.prefetchJob(.background, allOf: [opened], limit: 1_000_000)
        bench.blobIO.start(job)
        await wait(for: job.completion)
        // By at most a step more.
        #expect((1_000_000..<1_600_000).contains(job.fetched))
    }

    @Test func aFailureEndsTheJobAndHarmsNoReader() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.failAlways(.fails(.unavailable))
        source.forgetRequests()
        let job = bench.blobIO.prefetchJob(.background, allOf: [opened])
        bench.blobIO.start(job)
        await wait(for: job.completion)
        #expect(job.failure?.kind == .unavailable)
        // Not one failing request after the other through the whole layer.
        #expect(source.requestCount <= 8)
        source.failAlways(nil)
        #expect(try await bench.read(opened, "f0") == layer.files[0].content)
        #expect(bench.blobIO.prefetcher.bytes == 0)
        #expect(bench.blobIO.aheadBudget.used == 0)
    }

    @Test func aCancelledJobEnds() async throws {
        let bench = try Bench()
        let source = ScriptedSource(layer.blob)
        let opened = try await bench.open(layer, source)
        source.hold()
        let job = bench.blobIO.prefetchJob(.background, allOf: [opened])
        bench.blobIO.start(job)
        #expect(await eventually { bench.blobIO.prefetcher.requests > 0 })
        job.cancel()
        source.release()
        await wait(for: job.completion)
        #expect(job.fetched < UInt64(layer.tocOffset))
        bench.blobIO.start(bench.blobIO.prefetchJob(.background, allOf: []))
    }

    /// It ended at once, as if all were there.
    @Test(arguments: [false, true])
    func aJobWaitsForWhatIsOnItsWayForOthers(_ fails: Bool) async throws {
        let small = TestLayer((0..<8).map { .init(name: "f\($0)", content: noise(20_000, seed: UInt64($0))) })
        let bench = try Bench()
        let source = ScriptedSource(small.blob)
        let opened = try await bench.open(small, source)
        source.forgetRequests()
        if fails { source.failAlways(.fails(.unavailable)) }
        source.hold()
        let first = bench.blobIO.prefetchJob(.background, allOf: [opened])
        bench.blobIO.start(first)
        #expect(await eventually { source.requestCount > 0 })
        first.cancel()
        let second = bench.blobIO.prefetchJob(.warm, allOf: [opened])
        let missing = bench.blobIO.missingBytes(second)
        bench.blobIO.start(second)
        // Whoever plans has come to its end when another job of it is through.
        await Prefetcher.pool.run {}
        await Prefetcher.pool.run {}
        #expect(!second.completion.isFinished)
        source.release()
        await wait(for: second.completion)
        if fails {
            #expect(second.failure?.kind == .unavailable)
        } else {
            #expect(second.failure == nil)
            #expect(second.fetched == missing && missing == UInt64(small.tocOffset))
        }
    }

    @Test func anythingThatIsPrefetchedReadsAsItIs() async throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<5 {
            let bench = try Bench(cacheBytes: [256 << 10, 2 << 20, 64 << 20].randomElement(using: &generator) ?? 0)
            let opened = try await bench.open(layer, ScriptedSource(layer.blob))
            let names = (0..<200).map { "f\($0)" }.shuffled(using: &generator)
            let profile = bench.blobIO.prefetchJob(.profile, try profile(opened, Array(names[..<100])), of: [opened])
            bench.blobIO.start(profile)
            bench.blobIO.start(bench.blobIO.prefetchJob(.background, allOf: [opened]))
            for name in names.shuffled(using: &generator) {
                let number = Int(name.dropFirst()) ?? 0
                #expect(try await bench.read(opened, name) == layer.files[number].content)
            }
            await wait(for: profile.completion)
        }
    }
}
