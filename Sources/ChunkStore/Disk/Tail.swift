internal import PosixIO

/// A segment that records are appended to.
///
/// The fields that change are touched only with the store's `appending` lock held; segment and file never change.
final class Tail: @unchecked Sendable {
    // SAFETY: see above.
    let segment: Segment
    let slot: SlotID
    let file: Descriptor
    /// Bytes of the file that have space.
    let size: Int
    /// Where the next record goes.
    private(set) var position: Int
    /// Records that are written whole.
    private(set) var entries: [SegmentEntry]
    /// Records that are being written.
    private(set) var pending = 0
    /// No further record is to come.
    private(set) var isRetired = false

    init(
        _ segment: Segment,
        _ slot: SlotID,
        _ file: consuming Descriptor,
        size: Int,
        position: Int,
        entries: [SegmentEntry]
    ) {
        self.segment = segment
        self.slot = slot
        self.file = file
        self.size = size
        self.position = position
        self.entries = entries
    }

    /// Room for a record and its entry; nil when there is none.
    func reserve(_ count: Int) -> Int? {
        let needed = RecordLayout.aligned(count)
        let records = position - SegmentLayout.headerSize + needed
        guard !isRetired, SegmentLayout.size(records: records, count: entries.count + pending + 1) <= size else {
            return nil
        }
        let offset = position
        position += needed
        pending += 1
        return offset
    }

    /// Ends a reservation. True when the segment is to be sealed now, by the caller.
    func finish(_ entry: SegmentEntry?) -> Bool {
        if let entry { entries.append(entry) }
        pending -= 1
        return isRetired && pending == 0
    }

    /// Takes no further records. True when the segment is to be sealed now, by the caller.
    func retire() -> Bool {
        isRetired = true
        return pending == 0
    }

    /// The entries, which are not needed any more.
    func takeEntries() -> [SegmentEntry] {
        let result = entries
        entries = []
        return result
    }
}
