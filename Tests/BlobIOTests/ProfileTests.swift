import OCIModel
import PosixIO
import TestSupport
import Testing

@testable import BlobIO

/// What a profile is after many runs, told by a model that is written in the plainest way.
private struct ModelProfile {
    var chunks: [ProfilePlace] = []
    var ages: [ProfilePlace: Int] = [:]

    mutating func merge(_ read: [ProfilePlace], opened: Set<ProfilePlace>, isOver: Bool) {
        var anchor: ProfilePlace?
        var result = chunks
        for place in read {
            if chunks.contains(place) {
                anchor = place
                continue
            }
            // Behind the anchor, and behind what went there before.
            var at = anchor.flatMap { result.firstIndex(of: $0) }.map { $0 + 1 } ?? 0
            while at < result.count, !chunks.contains(result[at]) { at += 1 }
            result.insert(place, at: at)
        }
        for place in result {
            if read.contains(place) || opened.contains(place) {
                ages[place] = 0
            } else if isOver {
                ages[place, default: 0] += 1
            }
        }
        chunks = result.filter { ages[$0, default: 0] < 3 }
        ages = ages.filter { chunks.contains($0.key) }
    }
}

private let manifest = digest(of: Array("manifest".utf8))

private func testLayers(_ counts: [UInt32]) -> [ProfileLayer] {
    counts.enumerated().map { number, count in
        ProfileLayer(
            digest: digest(of: [UInt8(number)]),
            toc: digest(of: [UInt8(number), 1]),
            chunkCount: count
        )
    }
}

/// A run in which files are four chunks in a row.
private func run(
    _ layers: [ProfileLayer],
    _ read: [ProfilePlace],
    opened: Set<ProfilePlace> = []
) -> ProfileRun {
    ProfileRun(layers: layers, chunks: read, isOpened: { opened.contains($0) }, hasOpened: true)
}

@Suite struct ProfileTests {
    private func places(_ positions: Int..., layer: UInt16 = 0) -> [ProfilePlace] {
        positions.map { ProfilePlace(layer: layer, position: UInt32($0)) }
    }

    @Test func aFirstRunIsKeptInItsOrder() {
        let layers = testLayers([100])
        let profile = Profile(manifest: manifest, job: "").merged(
            with: run(layers, places(7, 3, 50)),
            isOver: true
        )
        #expect(profile.items.map(\.place) == places(7, 3, 50))
        #expect(profile.runs == 1)
    }

    @Test func whatIsNewStandsBehindWhatWasReadBeforeIt() {
        let layers = testLayers([100])
        let first = Profile(manifest: manifest, job: "").merged(
            with: run(layers, places(7, 3, 50)),
            isOver: true
        )
        let second = first.merged(with: run(layers, places(9, 3, 4, 5)), isOver: true)
        #expect(second.items.map(\.place) == places(9, 7, 3, 4, 5, 50))
    }

    @Test func aFileThatIsOnlyOpenedKeepsItsChunksAndOthersGoAfterAFewRuns() {
        let layers = testLayers([100])
        var profile = Profile(manifest: manifest, job: "").merged(
            with: run(layers, places(1, 2, 3)),
            isOver: true
        )
        for _ in 0..<2 {
            profile = profile.merged(with: run(layers, [], opened: Set(places(2))), isOver: true)
            #expect(profile.items.map(\.place) == places(1, 2, 3))
        }
        profile = profile.merged(with: run(layers, [], opened: Set(places(2))), isOver: true)
        #expect(profile.items.map(\.place) == places(2))
    }

    @Test func aRunThatIsNotOverAgesNothingHoweverOftenItIsSaved() {
        let layers = testLayers([100])
        let first = Profile(manifest: manifest, job: "").merged(with: run(layers, places(1, 2)), isOver: true)
        var profile = first
        for _ in 0..<10 { profile = profile.merged(with: run(layers, places(2, 5)), isOver: false) }
        #expect(profile.items.map(\.place) == places(1, 2, 5))
        #expect(profile.items.allSatisfy { $0.age == 0 })
        #expect(profile.runs == 1)
    }

    @Test func aLayerWithAnotherTOCIsForgottenAndOneThatWasNotUsedIsNot() {
        let layers = testLayers([100, 100, 100])
        var read = places(1)
        read += places(2, layer: 1)
        read += places(3, layer: 2)
        let first = Profile(manifest: manifest, job: "").merged(with: run(layers, read), isOver: true)
        var changed = layers[0]
        changed.toc = digest(of: [99])
        // This run used two layers, in another order.
        let second = first.merged(with: run([layers[2], changed], places(8)), isOver: true)
        #expect(second.layers == [layers[2], changed, layers[1]])
        #expect(second.items.map(\.place) == places(8) + places(2, layer: 2) + places(3))
    }

    @Test func mergingAgreesWithTheModel() {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<60 {
            let layers = testLayers([40, 20])
            var profile = Profile(manifest: manifest, job: "j")
            var model = ModelProfile()
            for _ in 0..<12 {
                let all = (0..<60).map {
                    ProfilePlace(layer: $0 < 40 ? 0 : 1, position: UInt32($0 < 40 ? $0 : $0 - 40))
                }
                .shuffled(using: &generator)
                let read = Array(all[..<Int.random(in: 0...20, using: &generator)])
                let opened = Set(all[30..<30 + Int.random(in: 0...10, using: &generator)])
                let isOver = Bool.random(using: &generator)
                profile = profile.merged(with: run(layers, read, opened: opened), isOver: isOver)
                model.merge(read, opened: opened, isOver: isOver)
                #expect(profile.items.map(\.place) == model.chunks)
                #expect(profile.items.map { Int($0.age) } == model.chunks.map { model.ages[$0] ?? 0 })
            }
        }
    }
}

@Suite struct ProfileFileTests {
    private func random(_ generator: inout SeededGenerator) -> Profile {
        let counts = (0..<Int.random(in: 1...5, using: &generator)).map { _ in
            UInt32.random(in: 1...50_000, using: &generator)
        }
        var profile = Profile(
            manifest: manifest,
            job: Bool.random(using: &generator)
                ? ""
                : "ci/build:test 1"
                    .filter { $0 != " " }
        )
        profile.layers = testLayers(counts)
        profile.runs = UInt32.random(in: 0 ... .max, using: &generator)
        var seen: Set<ProfilePlace> = []
        for _ in 0..<Int.random(in: 0...500, using: &generator) {
            let layer = Int.random(in: 0..<counts.count, using: &generator)
            let place = ProfilePlace(
                layer: UInt16(layer),
                position: UInt32.random(in: 0..<counts[layer], using: &generator)
            )
            if seen.insert(place).inserted {
                profile.items.append(.init(place, age: UInt8.random(in: 0...2, using: &generator)))
            }
        }
        return profile
    }

    @Test func whatIsWrittenIsRead() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<100 {
            let profile = random(&generator)
            let read = try Profile(decoding: profile.encoded)
            #expect(read.items == profile.grouped)
            #expect(read.layers == profile.layers)
            #expect(read.manifest == profile.manifest && read.job == profile.job && read.runs == profile.runs)
            // Written again it is the same.
            #expect(read.encoded == profile.encoded)
        }
    }

    @Test func aGroupKeepsTheOrderOfFirstUse() throws {
        var profile = Profile(manifest: manifest, job: "")
        profile.layers = testLayers([10_000])
        profile.items = (0..<640).map { .init(ProfilePlace(layer: 0, position: UInt32(9_999 - $0))) }
        let read = try Profile(decoding: profile.encoded)
        for start in stride(from: 0, to: 640, by: Profile.groupCount) {
            let end = start + Profile.groupCount
            #expect(Set(read.items[start..<end].map(\.place)) == Set(profile.items[start..<end].map(\.place)))
        }
    }

    @Test func aChunkCostsTwoBytes() {
        var generator = SeededGenerator(seed: 5)
        var profile = Profile(manifest: manifest, job: "")
        profile.layers = testLayers([20_000])
        let all = (0..<20_000).map { ProfilePlace(layer: 0, position: UInt32($0)) }.shuffled(using: &generator)
        profile.items = all[..<5000].map { .init($0) }
        #expect(profile.encoded.count < 5000 * 2 + 1000)
    }

    @Test func whateverIsCutOrChangedIsAnErrorAndNothingElse() {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let bytes = random(&generator).encoded
        for count in 0..<min(bytes.count, 600) {
            #expect(throws: ProfileError.self) { try Profile(decoding: Array(bytes[..<count])) }
        }
        for _ in 0..<600 {
            var changed = bytes
            let at = Int.random(in: 0..<bytes.count, using: &generator)
            changed[at] ^= 1 << UInt8.random(in: 0...7, using: &generator)
            // Four bytes are not used yet.
            if (12..<16).contains(at) { continue }
            #expect(throws: ProfileError.self) { try Profile(decoding: changed) }
        }
    }

    /// With a checksum that holds, so that everything behind it is looked at.
    @Test func whateverSomebodyWritesEndsWithinItsBounds() {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let original = random(&generator).encoded
        for _ in 0..<2000 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                let at = Int.random(in: 80..<max(81, bytes.count), using: &generator)
                if at < bytes.count { bytes[at] = UInt8.random(in: 0...255, using: &generator) }
            }
            if Bool.random(using: &generator) {
                bytes.removeLast(Int.random(in: 0..<bytes.count - 96, using: &generator))
            }
            let sum = digest(of: Array(bytes[48...]))
            for index in 0..<32 { bytes[16 + index] = sum[index] }
            guard let profile = try? Profile(decoding: bytes) else { continue }
            #expect(
                profile.items.allSatisfy { item in
                    Int(item.place.layer) < profile.layers.count
                        && item.place.position < profile.layers[Int(item.place.layer)].chunkCount && item.age < 3
                }
            )
            #expect(Set(profile.items.map(\.place)).count == profile.items.count)
        }
    }

    @Test func anotherVersionSaysSo() {
        var bytes = Profile(manifest: manifest, job: "").encoded
        bytes[8] = 2
        let error = #expect(throws: ProfileError.self) { try Profile(decoding: bytes) }
        #expect(error?.description.contains("version 2") == true)
    }
}
