internal import Glibc

/// What a name stands for while a layer's entries are read.
enum DentryKind: UInt8 {
    /// `inode` is an index of the inodes.
    case node
    /// A hard link whose target was not there when it came; `inode` is an index of the pending links.
    case pendingLink
    /// A `.wh.NAME` entry, kept under NAME beside what NAME itself may be; no inode.
    case whiteout
    /// Replaced, or below something that was: not part of the tree any more.
    case removed
}

/// A name in a directory, while a layer's entries are read.
struct Dentry {
    /// The directory's dentry; whiteouts have `NameTable.whiteoutKey` set as well.
    var parent: UInt32
    /// Where the name stands in the arena.
    var nameStart: UInt32
    /// The lower half of the hash of parent and name.
    var hash: UInt32
    var inode: UInt32
    var nameCount: UInt8
    var kind: DentryKind
    /// The directory has a `.wh..wh..opq` entry.
    var isOpaque: Bool
    /// The directory's name was removed and made anew in this layer.
    var replacesLower: Bool
}

/// Names by parent and bytes: dentries in an array, their bytes in one arena, an open hash table of dentry numbers.
/// A parent's number is always below its children's.
struct NameTable {
    static let none = UInt32.max
    /// In `Dentry.parent`: the names of whiteouts are a name space of their own beside the nodes'.
    static let whiteoutKey: UInt32 = 1 << 31

    private(set) var arena: [UInt8] = []
    var dentries: [Dentry] = []
    /// Dentry number + 1; 0 is empty. The size is a power of two.
    private var slots: [UInt32]
    /// Unknown to whoever makes an image, so that nobody can make names that share a slot.
    private let seed: (UInt64, UInt64)

    /// - Parameter expected: about how many names will come.
    init(expecting expected: Int) {
        var size = 1024
        while size < expected * 2 { size *= 2 }
        slots = [UInt32](repeating: 0, count: size)
        dentries.reserveCapacity(expected)
        arena.reserveCapacity(expected * 16)
        var random = SystemRandomNumberGenerator()
        seed = (random.next(), random.next())
    }

    /// The bytes of a dentry's name.
    func name(_ dentry: UInt32) -> ArraySlice<UInt8> {
        let start = Int(dentries[Int(dentry)].nameStart)
        return arena[start..<start + Int(dentries[Int(dentry)].nameCount)]
    }

    /// The hash of a name in a directory: a multiply-and-fold chain over eight bytes at a time.
    @inline(__always)
    private func hash(_ parent: UInt32, _ name: UnsafeRawBufferPointer) -> UInt32 {
        var state = seed.0 ^ UInt64(parent)
        var at = 0
        while name.count - at >= 8 {
            let word = unsafe name.loadUnaligned(fromByteOffset: at, as: UInt64.self)
            state = NameTable.fold(state ^ word, seed.1)
            at += 8
        }
        var tail = UInt64(name.count) << 56
        var shift: UInt64 = 0
        while at < name.count {
            tail |= unsafe UInt64(name[at]) << shift
            shift += 8
            at += 1
        }
        state = NameTable.fold(state ^ tail, seed.1)
        return UInt32(truncatingIfNeeded: state)
    }

    @inline(__always)
    private static func fold(_ a: UInt64, _ b: UInt64) -> UInt64 {
        let product = (a ^ 0x9e37_79b9_7f4a_7c15).multipliedFullWidth(by: b | 1)
        return product.high ^ product.low
    }

    /// The slot that holds the name, or the empty one where it belongs.
    @inline(__always)
    private func slot(_ parent: UInt32, _ name: UnsafeRawBufferPointer, _ hash: UInt32) -> Int {
        let mask = slots.count - 1
        var slot = Int(hash) & mask
        while slots[slot] != 0 {
            let dentry = dentries[Int(slots[slot] - 1)]
            if dentry.hash == hash, dentry.parent == parent, Int(dentry.nameCount) == name.count {
                let same = unsafe arena.withUnsafeBytes { bytes in
                    guard let a = bytes.baseAddress, let b = name.baseAddress else { return name.count == 0 }
                    // SAFETY: every dentry's name lies inside of the arena, and both have `name.count` bytes.
                    return unsafe memcmp(a + Int(dentry.nameStart), b, name.count) == 0
                }
                if same { return slot }
            }
            slot = (slot + 1) & mask
        }
        return slot
    }

    /// Where a name's dentry number is kept, or would be; good until the next `insert`.
    struct Place {
        fileprivate var slot: Int
        fileprivate var hash: UInt32
        /// The dentry that the name has now.
        var dentry: UInt32?
    }

    /// Looks a name up for a change.
    @inline(__always)
    func place(_ parent: UInt32, _ name: UnsafeRawBufferPointer) -> Place {
        let hash = unsafe self.hash(parent, name)
        let slot = unsafe self.slot(parent, name, hash)
        return Place(slot: slot, hash: hash, dentry: slots[slot] == 0 ? nil : slots[slot] - 1)
    }

    /// The dentry of a name in a directory, or nil.
    func find(_ parent: UInt32, _ name: UnsafeRawBufferPointer) -> UInt32? {
        unsafe place(parent, name).dentry
    }

    /// Adds a dentry under a name that has none, or instead of the one that it has.
    mutating func insert(
        _ parent: UInt32,
        _ name: UnsafeRawBufferPointer,
        at place: Place,
        kind: DentryKind,
        inode: UInt32
    ) -> UInt32 {
        let (slot, hash) = (place.slot, place.hash)
        let number = UInt32(dentries.count)
        var start = UInt32(arena.count)
        if slots[slot] != 0 {
            start = dentries[Int(slots[slot] - 1)].nameStart
        } else {
            unsafe arena.append(contentsOf: name)
        }
        dentries.append(
            Dentry(
                parent: parent,
                nameStart: start,
                hash: hash,
                inode: inode,
                nameCount: UInt8(name.count),
                kind: kind,
                isOpaque: false,
                replacesLower: false
            )
        )
        slots[slot] = number + 1
        if dentries.count * 2 > slots.count { grow() }
        return number
    }

    private mutating func grow() {
        var larger = [UInt32](repeating: 0, count: slots.count * 4)
        let mask = larger.count - 1
        // Only what the old table holds: replaced dentries are not in it.
        for entry in slots where entry != 0 {
            var slot = Int(dentries[Int(entry - 1)].hash) & mask
            while larger[slot] != 0 { slot = (slot + 1) & mask }
            larger[slot] = entry
        }
        slots = larger
    }
}
