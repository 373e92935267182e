import BlockCodec
import LayerFormat
import TestSupport
import Testing

/// A tar whose files' contents are left out up to a place brings a reader to that place: what a journal of a stream lives by.
@Suite(.enabled(if: Requirement.program("bsdtar").runs, Comment(rawValue: Requirement.program("bsdtar").reason)))
struct TarStructureTests {
    /// A place between two entries or runs, and the entries, runs and bytes so far.
    private struct Stop {
        var offset: UInt64
        var structure: [UInt8]
    }

    private enum Item: Equatable {
        case entry(TarEntry)
        case hole(UInt64)
        case run(at: UInt64, [UInt8])
    }

    /// All there is in an archive. Runs before `start` are left out of the source, and of what is given.
    ///
    /// - Parameter stop: gets each place where a stream could be taken up.
    private func read(_ bytes: [UInt8], from start: UInt64 = 0, stop: (Stop) -> Void = { _ in }) throws -> [Item] {
        var reader = TarReader(MemorySource(bytes, pieceSize: 10_000))
        reader.keepStructure(from: 0)
        var structure: [UInt8] = []
        var items: [Item] = []
        func note(_ reader: inout TarReader<MemorySource>) {
            guard let kept = reader.takeStructure() else {
                Issue.record("the structure was given up")
                return
            }
            structure += kept
            stop(Stop(offset: reader.offset, structure: structure))
        }
        while let entry = try reader.next() {
            items.append(.entry(entry))
            if start == 0 { note(&reader) }
            guard entry.kind == .regular else { continue }
            while let run = reader.run() {
                if run.isHole {
                    items.append(.hole(run.count))
                    reader.skipHole()
                } else if reader.offset < start {
                    items.append(.run(at: reader.offset, []))
                    reader.leaveOut(run.count)
                } else {
                    var content = [UInt8](repeating: 0, count: Int(run.count))
                    let at = reader.offset
                    var filled = 0
                    while filled < content.count {
                        filled += try unsafe content.withUnsafeMutableBytes { buffer in
                            try unsafe reader.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]))
                        }
                    }
                    items.append(.run(at: at, content))
                    if start == 0 { note(&reader) }
                }
            }
        }
        return items
    }

    @Test func aReaderIsBroughtToAnyPlaceOfAnyArchiveByItsStructure() throws {
        try Requirement.program("bsdtar").orFail()
        let directory = try TemporaryDirectory("structure")
        let names = try runChecked("python3", [SourceTree.testSupport("mktars.py"), directory.path]).text.split(
            separator: "\n"
        )
        #expect(names.count >= 20)
        var generator = SeededGenerator(seed: 11)
        for name in names {
            let tar = try fileBytes(directory.file("\(name).tar"))
            var stops: [Stop] = []
            let all = try read(tar) { stops.append($0) }
            for stop in stops.shuffled(using: &generator).prefix(12) {
                let rest = tar[Int(stop.offset)...]
                let again = try read(stop.structure + rest, from: stop.offset)
                let expected = all.map { item in
                    if case .run(let at, _) = item, at < stop.offset { Item.run(at: at, []) } else { item }
                }
                #expect(again == expected, "\(name) at \(stop.offset)")
            }
        }
    }
}
