#!/usr/bin/perl
# The services of the small guest, with the same ports and answers, in one process with what perl-base has:
#   7000+i  "N" in, a sector with "CONNECTION N" written and synced to the file, "N COUNT LAST" out
#   7100    "N" in, N turns of a loop, "N" out        7200+i  echo        7300  "lines FIRST COUNT" in, those sectors out
# See ../busybox/serve-synced.sh for what the numbers mean. Says "twinrun: guest ready" on the serial line.
use strict;
use warnings;
use Fcntl qw(O_RDWR O_CREAT O_DSYNC SEEK_SET);
use IO::Select;
use IO::Socket::INET;

my $path = "/var/lib/lab-lines";
sysopen(my $disk, $path, O_RDWR | O_CREAT | O_DSYNC) or die "$path: $!";
if (-s $path < 16 * 16384 * 512) {
  truncate($disk, 16 * 16384 * 512) or die "$path: $!";
}
my (%service, %state);
my $select = IO::Select->new;
for my $spec ((map { [7000 + $_, "synced", $_] } 0 .. 15), (map { [7200 + $_, "echo", $_] } 0 .. 15),
              (map { [7100 + $_, "burn", $_] } 0 .. 3), (map { [7300 + $_, "sectors", $_] } 0 .. 1)) {
  my ($port, $kind, $index) = @$spec;
  my $socket = IO::Socket::INET->new(LocalPort => $port, Listen => 8, ReuseAddr => 1) or die "port $port: $!";
  $service{$socket} = [$kind, $index];
  $select->add($socket);
}
if (open(my $console, ">", "/dev/ttyS0")) {
  print $console "twinrun: guest ready\n";
}

sub answer {
  my ($socket, $line) = @_;
  my ($kind, $index) = @{ $state{$socket}{service} };
  return "$line\n" if $kind eq "echo";
  if ($kind eq "burn") {
    my $i = 0;
    $i++ while $i < $line;
    return "$line\n";
  }
  if ($kind eq "sectors") {
    my (undef, $first, $count) = split / /, $line;
    sysseek($disk, $first * 512, SEEK_SET);
    my $sectors = "";
    while ((my $missing = $count * 512 - length $sectors) > 0) {
      my $got = sysread($disk, $sectors, $missing, length $sectors);
      last unless $got;
    }
    $state{$socket}{last_answer} = 1;
    return $sectors;
  }
  return "error: a request is a decimal number\n" unless $line =~ /^[0-9]+$/;
  sysseek($disk, ($index * 16384 + $line % 16384) * 512, SEEK_SET);
  my $sector = "$index $line\n";
  syswrite($disk, $sector . "\0" x (512 - length $sector)) == 512 or return "error: write\n";
  my $count = ++$state{$socket}{count};
  my $last = $state{$socket}{last} // "-";
  $state{$socket}{last} = $line;
  return "$line $count $last\n";
}

sub put { # all of it: an answer of several megabytes does not fit into the socket's buffer at once
  my ($socket, $text) = @_;
  my $sent = 0;
  while ($sent < length $text) {
    my $written = syswrite($socket, $text, length($text) - $sent, $sent);
    return 0 unless defined $written;
    $sent += $written;
  }
  return 1;
}

$SIG{PIPE} = "IGNORE";
while (1) {
  for my $socket ($select->can_read) {
    if (my $listener = $service{$socket}) {
      my $client = $socket->accept or next;
      setsockopt($client, 6, 1, pack("i", 1)); # TCP_NODELAY
      $state{$client} = { service => $listener, input => "", count => 0 };
      $select->add($client);
      next;
    }
    my $state = $state{$socket};
    my $got = sysread($socket, $state->{input}, 65536, length $state->{input});
    my $open = $got;
    while ($open && $state->{input} =~ s/^([^\n]*)\n//) {
      $open = put($socket, answer($socket, $1)) && !$state->{last_answer};
    }
    unless ($open) {
      $select->remove($socket);
      delete $state{$socket};
      close $socket;
    }
  }
}
