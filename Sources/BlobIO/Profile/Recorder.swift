internal import OCIModel
internal import LayerFormat
internal import PosixIO
internal import Synchronization

/// Takes down which chunks are read for the first time, in their order, for all recordings of the process.
///
/// A layer can be part of several images, and a read does not say of which. So it counts for every recording that has the
/// layer: for every image that is in use. A chunk is noted once after each time that a recording takes the layer in; the
/// recordings sort out what they have already.
///
/// LOCK ORDER: `recordings`, then a recording's, then `log`. None is held across a system call.
public final class Recorder: Sendable {
    struct Event: Sendable {
        let layer: Layer
        let chunk: UInt32
    }

    private struct Log: Sendable {
        var events: [Event] = []
        /// Recordings there are.
        var listeners = 0
        var isWakeUpDue = false
    }

    /// Events that wait to be sorted before somebody is asked to, and the most that may wait.
    private static let many = 8192
    private static let most = 1 << 20

    private let log = Mutex(Log())
    private let recordings = Mutex<[Recording]>([])
    /// Sorts events; shared by all of the process.
    private static let pool = WorkerPool(named: "crfs-profile", threads: 1)

    init() {}

    /// Notes the first read of a chunk. One lock, and only on first reads.
    func append(_ layer: Layer, _ chunk: UInt32) {
        let wakes: Bool = log.withLock { log in
            guard log.listeners > 0, log.events.count < Recorder.most else { return false }
            log.events.append(Event(layer: layer, chunk: chunk))
            let wakes = log.isWakeUpDue || log.events.count == Recorder.many
            log.isWakeUpDue = false
            return wakes
        }
        if wakes { Recorder.pool.submit { [weak self] in self?.sortEvents() } }
    }

    /// Starts a recording without layers.
    ///
    /// - Parameter onFirstRead: called once, on a thread of the recorder, soon after a first chunk was read.
    public func begin(onFirstRead: @escaping @Sendable () -> Void) -> Recording {
        let recording = Recording(self, onFirstRead)
        recordings.withLock { $0.append(recording) }
        log.withLock { $0.listeners += 1 }
        return recording
    }

    /// Takes a layer into a recording. What was read of it before does not count.
    func add(_ layer: Layer, to recording: Recording) {
        let calls = recordings.withLock { recordings in
            let calls = sort(recordings)
            guard recording.take(layer) else { return calls }
            layer.usage.read.removeAll()
            layer.usage.opened.removeAll()
            layer.usage.hidden.removeAll()
            log.withLock { $0.isWakeUpDue = true }
            return calls
        }
        for call in calls { call() }
    }

    func end(_ recording: Recording) {
        let calls = recordings.withLock { recordings in
            let calls = sort(recordings)
            let before = recordings.count
            recordings.removeAll { $0 === recording }
            log.withLock { $0.listeners -= before - recordings.count }
            return calls
        }
        for call in calls { call() }
    }

    /// Brings all recordings up to date.
    func sortEvents() {
        for call in recordings.withLock({ sort($0) }) { call() }
    }

    private func sort(_ recordings: [Recording]) -> [@Sendable () -> Void] {
        let events = log.withLock { log in
            let events = log.events
            log.events = []
            return events
        }
        var calls: [@Sendable () -> Void] = []
        var isSomeoneWaiting = false
        for recording in recordings {
            if let call = recording.take(events) { calls.append(call) }
            isSomeoneWaiting = isSomeoneWaiting || recording.awaitsFirstRead
        }
        if isSomeoneWaiting { log.withLock { $0.isWakeUpDue = true } }
        return calls
    }
}

/// What was read of an image's layers since a moment: a run, for a profile.
///
/// LOCK ORDER: see `Recorder`.
public final class Recording: Sendable {
    private struct Part: Sendable {
        let layer: Layer
        let seen: AtomicBits
        let opened: AtomicBits
        let hidden: AtomicBits

        init(_ layer: Layer) {
            self.layer = layer
            seen = AtomicBits(count: layer.index.chunkCount)
            opened = AtomicBits(count: layer.index.recordCount)
            hidden = AtomicBits(count: layer.index.recordCount)
        }

        /// What was opened must not be lost when another recording resets the layer.
        func noteOpened() {
            opened.formUnion(layer.usage.opened)
            hidden.formUnion(layer.usage.hidden)
        }

        /// Where a file's chunks stand; empty where any of them was seen to be read.
        func unseenChunks(_ record: UInt32, _ number: UInt16) -> [ProfilePlace] {
            let chunks = layer.index.chunks(record)
            guard !chunks.contains(where: { seen.contains($0) }) else { return [] }
            return chunks.compactMap { chunk in
                layer.index.blobPosition(of: chunk).map { ProfilePlace(layer: number, position: $0) }
            }
        }
    }

    private struct State: Sendable {
        var parts: [Part] = []
        /// Part, chunk number.
        var order: [(part: UInt16, chunk: UInt32)] = []
        var onFirstRead: (@Sendable () -> Void)?
        /// How much of `order` was given by the last `run`.
        var taken = 0
    }

    private let recorder: Recorder
    private let state: Mutex<State>

    init(_ recorder: Recorder, _ onFirstRead: @escaping @Sendable () -> Void) {
        self.recorder = recorder
        state = Mutex(State(onFirstRead: onFirstRead))
    }

    /// Takes layers in; those that it has already change nothing. Local layers have no profile.
    public func add(_ layers: [Layer]) {
        for layer in layers where layer.local == nil { recorder.add(layer, to: self) }
    }

    /// Ends the recording; `run` still gives what it has.
    public func end() { recorder.end(self) }

    /// What was read until now. Looks at the layers' indexes, so not for a thread that answers readers.
    public func run() -> ProfileRun {
        recorder.sortEvents()
        let (parts, order) = state.withLock { state in
            state.taken = state.order.count
            for part in state.parts { part.noteOpened() }
            return (state.parts, state.order)
        }
        var hidden: [[ProfilePlace]] = []
        for (number, part) in parts.enumerated() {
            part.hidden.forEach { record in
                let places = part.unseenChunks(record, UInt16(number))
                if !places.isEmpty { hidden.append(places) }
            }
        }
        return ProfileRun(
            layers: parts.map { ProfileLayer($0.layer) },
            chunks: order.compactMap { item in
                parts[Int(item.part)].layer.index.blobPosition(of: item.chunk).map {
                    ProfilePlace(layer: item.part, position: $0)
                }
            },
            isOpened: { place in
                let part = parts[Int(place.layer)]
                let index = part.layer.index
                let record = index.chunk(index.chunkInBlobOrder(Int(place.position))).record
                return part.opened.contains(index.inode(record))
            },
            hasOpened: parts.contains { !$0.opened.isEmpty },
            hidden: hidden
        )
    }

    /// Calls `body` with every inode record that was opened or read until now, once for each.
    func forEachOpened(_ body: (Layer, UInt32) -> Void) {
        recorder.sortEvents()
        let parts = state.withLock { state in
            for part in state.parts { part.noteOpened() }
            return state.parts
        }
        for part in parts {
            var inodes: Set<UInt32> = []
            part.opened.forEach { record in
                let inode = part.layer.index.inode(record)
                if inodes.insert(inode).inserted { body(part.layer, inode) }
            }
        }
    }

    /// Whether something was read since the last `run`.
    public var hasNews: Bool {
        recorder.sortEvents()
        return state.withLock { $0.order.count > $0.taken }
    }

    var awaitsFirstRead: Bool { state.withLock { $0.onFirstRead != nil && !$0.parts.isEmpty } }

    /// Takes a layer in; false when it has it.
    func take(_ layer: Layer) -> Bool {
        state.withLock { state in
            guard state.parts.count < ProfileLimit.layers, !state.parts.contains(where: { $0.layer === layer }) else {
                return false
            }
            state.parts.append(Part(layer))
            return true
        }
    }

    /// Takes what belongs to it; what is to be called for the first of it.
    func take(_ events: [Recorder.Event]) -> (@Sendable () -> Void)? {
        state.withLock { state in
            for part in state.parts { part.noteOpened() }
            for event in events {
                guard let part = state.parts.firstIndex(where: { $0.layer === event.layer }) else { continue }
                guard state.parts[part].seen.insert(event.chunk) else { continue }
                if state.order.count < ProfileLimit.chunks { state.order.append((UInt16(part), event.chunk)) }
            }
            guard !state.order.isEmpty else { return nil }
            defer { state.onFirstRead = nil }
            return state.onFirstRead
        }
    }
}

extension LayerIndex {
    /// Where a chunk stands in the order of the blob; nil for one for which nothing is stored.
    func blobPosition(of number: UInt32) -> UInt32? {
        let chunk = chunk(number)
        guard !chunk.isZeros, chunk.member.count > 0 else { return nil }
        var position = blobPosition(atOrAfter: chunk.member.offset)
        while position < chunkCount {
            let other = chunkInBlobOrder(position)
            if other == number { return UInt32(position) }
            guard self.chunk(other).member.offset == chunk.member.offset else { return nil }
            position += 1
        }
        return nil
    }
}
