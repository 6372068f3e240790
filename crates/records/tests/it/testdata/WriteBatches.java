// Wrote the .batch files beside it, with Apache Kafka 4.1's own classes:
//   scripts/kafka-dump.sh fetches the jars; then java -cp 'JARS/*' WriteBatches.java
// Each holds 300 records from offset 1000: key "key-N", value "value N " 100 times, the header "h" = byte N, time 5 N ms;
// every tenth has neither key nor value.
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.*;

class WriteBatches {
    public static void main(String[] arguments) throws Exception {
        for (CompressionType type : CompressionType.values()) {
            if (type == CompressionType.NONE) continue;
            ByteBuffer buffer = ByteBuffer.allocate(1 << 20);
            MemoryRecordsBuilder builder = MemoryRecords.builder(buffer, RecordBatch.MAGIC_VALUE_V2,
                Compression.of(type).build(), TimestampType.CREATE_TIME, 1000L, 0L, 77L, (short) 3, 12, false, 9);
            for (int n = 0; n < 300; n++) {
                byte[] key = n % 10 == 0 ? null : ("key-" + n).getBytes(StandardCharsets.UTF_8);
                byte[] value = n % 10 == 0 ? null : ("value " + n + " ").repeat(100).getBytes(StandardCharsets.UTF_8);
                builder.append(5L * n, key, value, new Header[] {new RecordHeader("h", new byte[] {(byte) n})});
            }
            ByteBuffer batch = builder.build().buffer();
            byte[] bytes = new byte[batch.remaining()];
            batch.get(bytes);
            Files.write(Path.of("kafka-4.1-" + type.name + ".batch"), bytes);
        }
    }
}
