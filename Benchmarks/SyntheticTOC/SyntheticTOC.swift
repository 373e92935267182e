/// A TOC as eStargz writers make it: directories of 12 entries, one in eight a symlink, names of about 20 bytes.
///
/// - Parameters:
///   - entries: how many there are.
///   - seed: TOCs of different seeds have different files in the same directories.
/// - Returns: JSON text.
public func makeTOC(entries: Int, seed: Int) -> [UInt8] {
    var text = "{\n\t\"version\": 1,\n\t\"entries\": ["
    var offset = 100
    var random = UInt64(seed) | 1
    func hex() -> String {
        var digits = ""
        for _ in 0..<4 {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let word = String(random, radix: 16)
            digits += String(repeating: "0", count: 16 - word.count) + word
        }
        return digits
    }
    for number in 0..<entries {
        let directory = "usr/share/package-\(number / 144)/section-\(number / 12 % 12)"
        let time = "\"modtime\": \"2024-03-0\(number % 9 + 1)T12:3\(number % 10):00Z\""
        let owner = "\"userName\": \"root\",\n\t\t\t\"groupName\": \"root\",\n\t\t\t\"NumLink\": 0"
        if number > 0 { text += "," }
        text += "\n\t\t{\n\t\t\t"
        switch number % 12 {
        case 0:
            text +=
                "\"name\": \"\(directory)/\",\n\t\t\t\"type\": \"dir\",\n\t\t\t\(time),\n\t\t\t\"mode\": 493,\n\t\t\t\(owner)"
        case 5:
            text += "\"name\": \"\(directory)/libexample-\(seed).so.\(number)\",\n\t\t\t\"type\": \"symlink\",\n\t\t\t"
            text += "\(time),\n\t\t\t\"linkName\": \"libexample.so.\(number).1\",\n\t\t\t\"mode\": 511,\n\t\t\t\(owner)"
        default:
            let digest = hex()
            text += "\"name\": \"\(directory)/file-\(seed)-\(number).data\",\n\t\t\t\"type\": \"reg\",\n\t\t\t"
            text += "\"size\": \(number * 7 % 9000 + 1),\n\t\t\t\(time),\n\t\t\t\"mode\": 420,\n\t\t\t\(owner),\n\t\t\t"
            text += "\"offset\": \(offset),\n\t\t\t\"digest\": \"sha256:\(digest)\",\n\t\t\t"
            text += "\"chunkDigest\": \"sha256:\(digest)\""
            offset += number * 7 % 9000 / 3 + 120
        }
        text += "\n\t\t}"
    }
    return Array((text + "\n\t]\n}").utf8)
}
