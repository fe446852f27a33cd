#!/usr/bin/perl
# The stock of the example shop: an HTTP server that has nothing to do with vmesh, in a language
# of its own. It answers for itself and calls nobody, so there is no trace header to pass on; it
# never repeats what a request says, so nothing of it can leak.
#
# Environment:
#   LISTEN        where it listens; 127.0.0.1:7001 without it
#   SERVICE_NAME  named in its answers; "stock" without it
#   MESH_ADDRESS  this host's address in the mesh, named in its answers
# vmesh offers the latter two in /etc/vmesh/stock.env.
#
# One process and one loop: every answer is a few bytes, ready at once. It needs what Debian's
# perl-base brings, no more.
use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();

my $LARGEST_HEAD = 64 * 1024;    # Envoy lets 60 KiB through
my $LARGEST_BODY = 1024 * 1024;
my $MOST_CONNECTIONS = 500;
# Longer than any Envoy in front keeps an idle connection: were both to end it at the same moment,
# a request could fall between them.
my $IDLE_SECONDS = 120;

my %REASONS = (
    200 => 'OK', 400 => 'Bad Request', 405 => 'Method Not Allowed', 413 => 'Content Too Large',
    431 => 'Request Header Fields Too Large', 501 => 'Not Implemented',
);

my $listen = $ENV{LISTEN} || '127.0.0.1:7001';
my $name = text($ENV{SERVICE_NAME} || 'stock');
my $instance = text((POSIX::uname())[1]);
my $address = text($ENV{MESH_ADDRESS} || '');
my $json = qq({"service": "$name", "instance": "$instance", "address": "$address",)
    . qq( "version": "perl $^V", "upstreams": {}}\n);

$SIG{PIPE} = 'IGNORE';
$SIG{TERM} = sub { exit 0 };

my $server = IO::Socket::INET->new(LocalAddr => $listen, Listen => 128, ReuseAddr => 1, Blocking => 0)
    or die "stock: cannot listen on $listen: $@\n";
my $readers = IO::Select->new($server);
my $writers = IO::Select->new;
my %connections;    # file number -> what is known of it

$| = 1;
print "listening on $listen\n";

while (1) {
    my ($readable, $writable) = IO::Select->select($readers, $writers, undef, 5);
    for my $socket (@{ $writable || [] }) {
        flush($socket) if $connections{ fileno($socket) // -1 };
    }
    for my $socket (@{ $readable || [] }) {
        if ($socket == $server) { greet() }
        elsif ($connections{ fileno($socket) // -1 }) { listen_to($socket) }
    }
    my $now = time;
    for my $connection (values %connections) {
        hang_up($connection->{socket}) if $now - $connection->{last} > $IDLE_SECONDS;
    }
}

# Returns the text as it may stand in a string of JSON.
sub text {
    my ($value) = @_;
    $value =~ s/[^A-Za-z0-9._:-]/_/g;
    return $value;
}

sub greet {
    my $socket = $server->accept or return;
    if (keys %connections >= $MOST_CONNECTIONS) {
        close $socket;
        return;
    }
    $socket->blocking(0);
    $readers->add($socket);
    $connections{ fileno $socket } =
        { socket => $socket, in => '', out => '', last => time, ending => 0 };
    return;
}

sub hang_up {
    my ($socket) = @_;
    delete $connections{ fileno $socket };
    $readers->remove($socket);
    $writers->remove($socket);
    close $socket;
    return;
}

sub listen_to {
    my ($socket) = @_;
    my $connection = $connections{ fileno $socket };
    my $count = sysread $socket, $connection->{in}, 65536, length $connection->{in};
    if (!defined $count) {
        hang_up($socket) unless $!{EAGAIN} || $!{EINTR};
        return;
    }
    return hang_up($socket) if $count == 0;
    $connection->{last} = time;
    $connection->{out} .= answer($connection) while !$connection->{ending} && complete($connection);
    # After the last answer whatever comes is nobody's.
    $connection->{in} = '' if $connection->{ending};
    flush($socket);
    return;
}

# Tells whether a request has come, with its body, or one that no more of can help. Sets what was
# understood of it as `request`.
sub complete {
    my ($connection) = @_;
    my $end = index $connection->{in}, "\r\n\r\n";
    if (($end < 0 ? length $connection->{in} : $end) > $LARGEST_HEAD) {
        $connection->{request} = { refused => 431 };
        return 1;
    }
    return 0 if $end < 0;
    my $request = understand(substr $connection->{in}, 0, $end);
    my $whole = $end + 4 + ($request->{body} // 0);
    return 0 if !$request->{refused} && length $connection->{in} < $whole;
    substr $connection->{in}, 0, $whole, '';
    $connection->{request} = $request;
    return 1;
}

# Returns what the head of a request says: method, body (its length), last (no other follows),
# refused (the status to refuse it with).
sub understand {
    my ($head) = @_;
    my ($line, @fields) = split /\r\n/, $head;
    my ($method, $minor) = ($line // '') =~ m{^([A-Z]+) \S+ HTTP/1\.([01])$} or return { refused => 400 };
    my %request = (method => $method, body => 0, last => $minor == 0);
    for my $field (@fields) {
        my ($key, $value) = $field =~ /^([!-9;-~]+):[ \t]*(.*?)[ \t]*$/ or return { refused => 400 };
        $key = lc $key;
        if ($key eq 'content-length') {
            return { refused => 400 } if $value !~ /^[0-9]{1,15}$/;
            return { refused => 413 } if $value > $LARGEST_BODY;
            return { refused => 400 } if $request{sized}++;
            $request{body} = $value;
        }
        elsif ($key eq 'transfer-encoding') { return { refused => 501 } }
        elsif ($key eq 'connection' && lc $value eq 'close') { $request{last} = 1 }
    }
    return \%request;
}

# Returns the answer to the request of a connection; after a refusal the connection ends, as what
# follows in it cannot be trusted.
sub answer {
    my ($connection) = @_;
    my $request = delete $connection->{request};
    my $status = $request->{refused} || ($request->{method} =~ /^(?:GET|HEAD)$/ ? 200 : 405);
    $connection->{ending} = 1 if $request->{refused} || $request->{last};
    my $body = $status == 200 ? $json : "$status $REASONS{$status}\n";
    my $head = "HTTP/1.1 $status $REASONS{$status}\r\n"
        . 'Content-Type: ' . ($status == 200 ? 'application/json' : 'text/plain') . "\r\n"
        . ($status == 405 ? "Allow: GET, HEAD\r\n" : '')
        . 'Content-Length: ' . length($body) . "\r\n"
        . ($connection->{ending} ? "Connection: close\r\n" : '') . "\r\n";
    return $head . (($request->{method} // '') eq 'HEAD' ? '' : $body);
}

sub flush {
    my ($socket) = @_;
    my $connection = $connections{ fileno $socket };
    if (length $connection->{out}) {
        my $count = syswrite $socket, $connection->{out};
        if (!defined $count) {
            return $writers->add($socket) if $!{EAGAIN} || $!{EINTR};
            return hang_up($socket);
        }
        substr $connection->{out}, 0, $count, '';
    }
    if (length $connection->{out}) { $writers->add($socket) }
    else {
        $writers->remove($socket);
        # Closed at once, with something of the client's unread, the answer could be lost with it.
        shutdown $socket, 1 if $connection->{ending};
    }
    return;
}
