/// First in, first out, each step in constant time on average. What was taken out is not held any more: it may be much memory.
public struct Line<Element> {
    /// Those before `head` are nil.
    private var items: [Element?] = []
    private var head = 0

    /// An empty one.
    public init() {}

    /// How many wait in it.
    public var count: Int { items.count - head }

    /// The one whose turn is next.
    public var first: Element? { head < items.count ? items[head] : nil }

    /// Puts one at the end.
    public mutating func append(_ item: Element) { items.append(item) }

    /// Takes the first one out.
    @discardableResult
    public mutating func popFirst() -> Element? {
        guard head < items.count else { return nil }
        let item = items[head].take()
        head += 1
        if head == items.count {
            items.removeAll(keepingCapacity: head <= 64)
            head = 0
        } else if head >= 64, head * 2 >= items.count {
            items.removeFirst(head)
            head = 0
        }
        return item
    }

    /// Calls `body` for each, in order.
    public func forEach(_ body: (Element) -> Void) {
        for case let item? in items[head...] { body(item) }
    }
}

extension Line: Sendable where Element: Sendable {}
