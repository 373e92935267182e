import PosixIO
import TestSupport
import Testing

@Suite struct LineTests {
    private final class Item {
        let number: Int
        init(_ number: Int) { self.number = number }
    }

    @Test func itIsFirstInFirstOut() {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        var (line, model) = (Line<Int>(), [Int]())
        for number in 0..<20_000 {
            // Long and empty by turns.
            if Int.random(in: 0..<100, using: &generator) < (number / 1000 % 2 == 0 ? 70 : 30) {
                line.append(number)
                model.append(number)
            } else {
                #expect(line.popFirst() == (model.isEmpty ? nil : model.removeFirst()), "seed \(seed)")
            }
            #expect(line.count == model.count && line.first == model.first, "seed \(seed)")
        }
        var seen: [Int] = []
        line.forEach { seen.append($0) }
        #expect(seen == model, "seed \(seed)")
    }

    @Test func whatWasTakenOutIsNotHeld() {
        var line = Line<Item>()
        for number in 0..<100 { line.append(Item(number)) }
        weak let first = line.first
        #expect(first?.number == 0)
        line.popFirst()
        #expect(first == nil)
        #expect(line.first?.number == 1)
    }
}
